"""Another machine over SSH, by a real sshd on loopback."""

from __future__ import annotations

import io
import json

import pytest
from click.testing import CliRunner

from msrt.errors import CallerError, InvalidAddress
from msrt_device.flash.command import flash
from msrt_device.flash.identity.settings import IdentitySettings, Wifi
from msrt_device.flash.remote.host import Host, HostFailed, Remote
from msrt_device.flash.remote.installing import install
from tests.device.flash.sshd import Sshd, needs_sshd


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    """Onto this machine; `dpkg` there is of a CPU that we have no agent for, so nothing can be installed."""
    folder = tmp_path_factory.mktemp("sshd")
    (folder / "bin").mkdir()
    (folder / "bin/dpkg").write_text("#!/bin/sh\necho riscv64\n")
    (folder / "bin/dpkg").chmod(0o755)
    server = Sshd(folder, f'PATH={folder}/bin:$PATH exec sh -c "$SSH_ORIGINAL_COMMAND"')
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("ssh://pi@oven-7.local:2222", Remote("oven-7.local", "pi", 2222)),
        ("ssh://10.0.0.7", Remote("10.0.0.7")),
        ("ssh://root@[fe80::1]:22/", Remote("fe80::1", "root", 22)),
    ],
)
def test_an_address_is_taken_apart(url, found):
    """User and port are ssh's configuration's where the address has none."""
    assert Remote.parse(url) == found


@pytest.mark.parametrize(
    "url", ["ssh://", "ssh://-oProxyCommand=x", "ssh://a@-b", "ssh://a:b@c", "ssh://h:99999", "ssh://h/x", "ssh://h h"]
)
def test_what_is_no_address_is_refused(url):
    """Above all what ssh would take for an option."""
    with pytest.raises(InvalidAddress, match="ssh://USER@HOST:PORT"):
        Remote.parse(url)


@pytest.mark.slow
@needs_sshd
def test_files_and_words_go_over_one_authenticated_connection(sshd, tmp_path):
    """Whatever characters they hold; what failed there is said."""
    seen, path, word = [], tmp_path / "it's a $file", "a 'b' \"c\" $HOME; `x`"
    with Host(Remote.parse(sshd.url), sshd.config) as host:
        assert host.run('printf %s "$1"', word) == word
        host.put(io.BytesIO(b"x" * 700_000), 700_000, str(path), lambda *one: seen.append(one))
        with pytest.raises(HostFailed, match="no such thing"):
            host.run("echo no such thing >&2; exit 3")
    assert path.read_bytes() == b"x" * 700_000
    assert path.stat().st_mode & 0o777 == 0o600
    assert seen[-1] == (700_000, 700_000)
    assert sshd.log.read_text().count("Accepted publickey") == 1


@pytest.mark.slow
@needs_sshd
def test_a_machine_whose_key_is_not_known_is_not_talked_to(sshd, tmp_path):
    """The check is ssh's, and nothing turns it off; the key is not taken as known either."""
    known = tmp_path / "known"
    config = tmp_path / "config"
    config.write_text(sshd.config.read_text().replace(str(sshd.known), str(known)))
    with (
        Host(Remote.parse(sshd.url), config) as host,
        pytest.raises(HostFailed, match="key verification failed") as error,
    ):
        host.run("true")
    assert "fingerprint" in error.value.hint
    assert not known.exists() or not known.read_text()


@pytest.mark.slow
@needs_sshd
def test_a_machine_that_no_agent_is_for_is_refused(sshd):
    """With nothing left behind there; by the command too, as JSON."""
    with Host(Remote.parse(sshd.url), sshd.config) as host, pytest.raises(HostFailed, match="no Debian"):
        install(host, "generic-systemd", None, lambda *_: None, wait_s=5)
    done = CliRunner().invoke(flash, ["generic-systemd", sshd.url, "--ssh-config", str(sshd.config), "--json"])
    assert isinstance(done.exception, HostFailed)
    assert all(json.loads(line).get("verified") is None for line in done.stdout.splitlines())


def test_settings_that_would_not_take_are_refused():
    """A machine that runs keeps its network, locale and time zone."""
    host = Host(Remote("nowhere.invalid"))
    for settings in (IdentitySettings(wifi=Wifi(ssid="hall")), IdentitySettings(timezone="Europe/Berlin")):
        with pytest.raises(CallerError, match="keeps its own"):
            install(host, "generic-systemd", settings, lambda *_: None, wait_s=5)


@pytest.mark.parametrize("flag", [["--identity-only"], ["--no-resume"], ["--count", "3"], ["--force-non-removable"]])
def test_what_is_said_of_media_is_refused_for_a_machine(flag):
    """No flag is taken that does nothing."""
    done = CliRunner().invoke(flash, ["generic-systemd", "ssh://pi@nowhere.invalid", *flag])
    assert done.exit_code == 2
    assert "is for a medium" in done.output
