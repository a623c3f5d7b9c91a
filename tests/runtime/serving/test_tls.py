"""HTTP over TLS: the certificate that is shown, and its renewal, on real sockets; the client that pins it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl

import numpy as np
import pytest

from msrt import errors
from msrt.client import AsyncClient
from msrt.protocol.messages import Parent
from msrt.serving.app import App
from msrt.serving.http import HttpServer
from msrt.serving.tls import ServerTls
from msrt.trust.tls import ServerCertificate, fingerprint
from tests.runtime.hop.tree import until
from tests.runtime.serving.caller import Master

WALL = 1_700_000_000.0
X = {"x": np.ones((1, 2), np.float32)}


def files(folder, *hosts):
    """A certificate and its key as an operator has them; replaced at once, as renewing tools do."""
    made = ServerCertificate.make(hosts or ("127.0.0.1",), WALL)
    for name, data in (("tls.crt", made.certificate), ("tls.key", made.key)):
        (folder / "draft").write_bytes(data)
        (folder / "draft").replace(folder / name)
    return made


@contextlib.asynccontextmanager
async def serving(tls, master=None):
    """Its https address, while the block lasts."""
    server = HttpServer(App(master or Master()), "127.0.0.1", 0, tls=tls.context)
    port = await server.start()
    try:
        yield f"https://127.0.0.1:{port}"
    finally:
        await asyncio.wait_for(server.close(), 5)


def shown(url):
    """Fingerprint of what a listener shows."""
    host, port = url.removeprefix("https://").split(":")
    return asyncio.to_thread(lambda: fingerprint(ssl.get_server_certificate((host, int(port)), timeout=5).encode()))


async def infer(url, **options):
    async with AsyncClient([url], deadline_s=5.0, **options) as client:
        return await client.infer("digits", X)


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_pinned_server_answers(tmp_path):
    """Its fingerprint is enough, in whatever spelling; no authority is asked."""

    async def scenario():
        tls = ServerTls.keep(tmp_path, ["elsewhere"], WALL)
        colons = ":".join(tls.fingerprint[i : i + 2] for i in range(0, 64, 2)).upper()
        async with serving(tls) as url:
            for pin in (tls.fingerprint, colons, ["0" * 64, tls.fingerprint]):
                assert (await infer(url, fingerprint=pin)).device == "cam-1"

    run(scenario)


def test_a_server_that_nobody_vouches_for_is_refused_at_once(tmp_path):
    """Without a pin, with another one, with another authority: one sentence; it hears no key."""

    async def scenario():
        master = Master()
        async with serving(ServerTls.keep(tmp_path, ["127.0.0.1"], WALL), master) as url:
            (tmp_path / "ca.pem").write_bytes(ServerCertificate.make(["127.0.0.1"], WALL).certificate)
            for options in ({}, {"fingerprint": "0" * 64}, {"ca": tmp_path / "ca.pem"}):
                with pytest.raises(errors.WrongServerKey):
                    await infer(url, key="msrt_secret", **options)
        assert not master.asked

    run(scenario)


def test_an_authority_of_ones_own(tmp_path):
    """`ca` vouches for the certificate, and the name in it must be the one that was asked for."""

    async def scenario():
        files(tmp_path, "127.0.0.1")
        tls = ServerTls(tmp_path / "tls.crt", tmp_path / "tls.key")
        assert tls.fingerprint == ""
        async with serving(tls) as url:
            assert (await infer(url, ca=tmp_path / "tls.crt")).version == 3
        files(tmp_path, "other.example")
        async with serving(ServerTls(tmp_path / "tls.crt", tmp_path / "tls.key")) as url:
            with pytest.raises(errors.WrongServerKey):
                await infer(url, ca=tmp_path / "tls.crt")

    run(scenario)


def test_an_edge_is_pinned_as_the_first_one_said(tmp_path):
    """The list of edges carries fingerprints: when the first dies, the second is believed."""

    async def scenario():
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        first, second = (ServerTls.keep(tmp_path / name, ["127.0.0.1"], WALL) for name in ("one", "two"))
        master = Master()
        async with contextlib.AsyncExitStack() as stack, serving(second) as other:
            url = await stack.enter_async_context(serving(first, master))
            master.edges = lambda: [
                Parent("a" * 26, http=url, http_fingerprint=first.fingerprint),
                Parent("b" * 26, http=other, http_fingerprint=second.fingerprint),
            ]
            async with AsyncClient([url], fingerprint=first.fingerprint, deadline_s=10.0) as client:
                await client.infer("digits", X)
                await until(lambda: len(client.edges) == 2)
                await stack.aclose()
                assert (await client.infer("digits", X)).device == "cam-1"

    run(scenario)


def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path):
    """The next handshake gets it; who is connected stays."""

    async def scenario():
        old = files(tmp_path)
        tls = ServerTls(tmp_path / "tls.crt", tmp_path / "tls.key")
        async with serving(tls) as url:
            assert await shown(url) == old.fingerprint
            assert not tls.refresh()
            new = files(tmp_path)
            assert tls.refresh()
            assert await shown(url) == new.fingerprint
            assert tls.pair == (new.key, new.certificate)

    run(scenario)


def test_a_bad_renewal_leaves_what_works(tmp_path):
    """Half a renewal, garbage, files that are gone: the former certificate stays until a whole new one is there."""

    async def scenario():
        old = files(tmp_path)
        tls = ServerTls(tmp_path / "tls.crt", tmp_path / "tls.key")
        other = ServerCertificate.make(["127.0.0.1"], WALL)
        async with serving(tls) as url:
            (tmp_path / "tls.crt").write_bytes(other.certificate)
            assert not tls.refresh()
            assert await shown(url) == old.fingerprint
            (tmp_path / "tls.crt").write_bytes(b"garbage")
            assert not tls.refresh()
            (tmp_path / "tls.crt").unlink()
            assert not tls.refresh()
            assert await shown(url) == old.fingerprint
            (tmp_path / "tls.crt").write_bytes(other.certificate)
            (tmp_path / "tls.key").write_bytes(other.key)
            assert tls.refresh()
            assert await shown(url) == other.fingerprint

    run(scenario)


@pytest.mark.parametrize("wrong", ["missing", "garbage", "pair", "password", "folder"])
def test_files_that_cannot_be_served_are_refused_at_the_start(tmp_path, wrong):
    """One sentence that names the settings; a key with a password asks nobody at a terminal."""
    files(tmp_path)
    key = tmp_path / "tls.key"
    match wrong:
        case "missing":
            key.unlink()
        case "garbage":
            key.write_bytes(b"no key")
        case "pair":
            key.write_bytes(ServerCertificate.make(["x"], WALL).key)
        case "password":
            from cryptography.hazmat.primitives import serialization as s  # noqa: PLC0415

            loaded = s.load_pem_private_key(key.read_bytes(), None)
            key.write_bytes(
                loaded.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"pass"))
            )
        case "folder":
            key.unlink()
            os.mkdir(key)  # noqa: PTH102 - whatever is at that name
    with pytest.raises(errors.InvalidConfig, match="tls_cert"):
        ServerTls(tmp_path / "tls.crt", key)


def test_a_fingerprint_that_is_none_is_refused():
    """Before anything is asked; so is a ca that holds nothing."""
    for options in ({"fingerprint": "abc"}, {"fingerprint": ["g" * 64]}):
        with pytest.raises(errors.InvalidAddress):
            AsyncClient(["https://127.0.0.1:1"], **options)
    with pytest.raises(errors.InvalidConfig):
        AsyncClient(["https://127.0.0.1:1"], ca="/nowhere/ca.pem")


def test_plain_words_at_a_tls_port_end_that_connection_only(tmp_path):
    """Whoever forgets the s gets nothing; the next caller is served."""

    async def scenario():
        tls = ServerTls.keep(tmp_path, ["127.0.0.1"], WALL)
        async with serving(tls) as url:
            host, port = url.removeprefix("https://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert b"200" not in await reader.read()
            writer.close()
            assert (await infer(url, fingerprint=tls.fingerprint)).version == 3

    run(scenario)
