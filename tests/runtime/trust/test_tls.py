from __future__ import annotations

import base64
import datetime as dt
import hashlib
import os
import shutil
import ssl
import stat
import subprocess

import pytest
from cryptography import x509

from msrt.errors import Corrupt, KeysExposed
from msrt.trust.tls import ServerCertificate, fingerprint, mosquitto_password

WALL = 1_700_000_000.0


def test_the_fingerprint_is_of_the_der_bytes():
    """PEM and DER of one certificate have one fingerprint: what a TLS client computes from the handshake."""
    made = ServerCertificate.make(["localhost"], WALL)
    der = ssl.PEM_cert_to_DER_cert(made.certificate.decode())
    assert made.fingerprint == fingerprint(der) == hashlib.sha256(der).hexdigest()


def test_it_names_its_hosts_and_is_valid_now():
    """Names and addresses are in it; it holds from yesterday for years."""
    made = x509.load_pem_x509_certificate(ServerCertificate.make(["edge-1", "127.0.0.1"], WALL).certificate)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["edge-1"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    now = dt.datetime.fromtimestamp(WALL, dt.UTC)
    assert made.not_valid_before_utc < now < made.not_valid_after_utc - dt.timedelta(days=3000)


def test_a_tls_server_takes_it(tmp_path):
    """OpenSSL loads the certificate and its key as a pair."""
    made = ServerCertificate.keep(tmp_path, "broker", ["localhost"], WALL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "broker.crt", tmp_path / "broker.key")
    client = ssl.create_default_context(cadata=made.certificate.decode())
    assert client.cert_store_stats()["x509_ca"] == 1


def test_it_is_kept(tmp_path):
    """A restarted edge has the same certificate, as its fingerprint is in invites; the key is private."""
    first = ServerCertificate.keep(tmp_path, "broker", ["localhost"], WALL)
    assert ServerCertificate.keep(tmp_path, "broker", ["other"], WALL + 1) == first
    assert stat.S_IMODE((tmp_path / "broker.key").stat().st_mode) == 0o600
    (tmp_path / "broker.key").chmod(0o644)
    with pytest.raises(KeysExposed):
        ServerCertificate.keep(tmp_path, "broker", ["localhost"], WALL)


def test_a_damaged_certificate_is_corrupt():
    """Something that only begins like PEM."""
    with pytest.raises(Corrupt):
        fingerprint(b"-----BEGIN nonsense")


def test_the_password_line_is_mosquittos(tmp_path):
    """The hash that mosquitto_passwd wrote for a known salt is the one that we compute."""
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed")
    file = tmp_path / "passwords"
    subprocess.run([tool, "-c", "-b", str(file), "node", "pass word"], check=True, capture_output=True, timeout=20)
    line = file.read_text().strip()
    salt = base64.b64decode(line.split("$")[3])
    assert f"node:{mosquitto_password('pass word', salt)}" == line


def test_a_salt_makes_another_line():
    """Two nodes with one password do not show it."""
    assert mosquitto_password("p", os.urandom(12)) != mosquitto_password("p", os.urandom(12))
