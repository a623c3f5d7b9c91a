"""Who comes in at the front, and where it listens: keys, TLS, ports."""

from __future__ import annotations

import asyncio
import os
import socket
import time

import grpc
import grpc.aio
import pytest

from msrt import errors
from msrt.serving.access import Access
from msrt.serving.grpc import messages as m
from msrt.serving.grpc.server import GrpcServer
from msrt.serving.tls import ServerTls
from msrt.trust.api_keys import KeyBook, make_key
from tests.runtime.serving.grpc.rig import Caller, Keeper, question, serve


def keys(*roles, **more):
    """(texts, access that knows them and asks everybody for one)."""
    made = [make_key(role, role, os.urandom, **more) for role in roles]
    book = KeyBook([record for _, record in made])
    return [text for text, _ in made], Access(lambda: book, trusts_loopback=False)


def test_with_keys_only_their_holders_come_in():
    """As a bearer token or x-api-key; health stays open; a client may not load models."""
    (client, operator), access = keys("client", "operator")

    async def scenario(caller, master, _server):
        assert (await caller.ask("ServerReady", b"", m.ServerReadyResponse)).ready
        for method in ("ServerMetadata", "ModelInfer", "RepositoryModelLoad"):
            assert (await caller.refused(method, question()))[0] == "UNAUTHENTICATED"
        assert (await caller.refused("ModelInfer", question(), metadata=(("x-api-key", "wrong"),)))[
            0
        ] == "UNAUTHENTICATED"
        await caller.infer(metadata=(("authorization", f"Bearer {client}"),))
        await caller.infer(metadata=(("x-api-key", client),))
        asked = m.RepositoryModelRequest(model_name="digits")
        code, _, _ = await caller.refused("RepositoryModelLoad", asked, metadata=(("x-api-key", client),))
        assert (code, master.managed) == ("PERMISSION_DENIED", [])
        await caller.ask("RepositoryModelLoad", asked, m.Empty, metadata=(("x-api-key", operator),))
        assert master.managed == [("load", "digits", 0)]

    serve(scenario, access=access)


# --- where it listens ------------------------------------------------------------------------------------------------


def start(host, port, **more):
    async def main():
        server = GrpcServer(Keeper(), Keeper())
        try:
            return await server.start(host, port, **more)
        finally:
            await server.close()

    return asyncio.run(main())


def test_a_taken_port_is_named():
    """It is not shared with whoever has it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(errors.PortInUse, match=str(port)):
            start("127.0.0.1", port)


def test_two_fronts_do_not_share_a_port():
    """As grpc would let them, by default."""

    async def scenario(caller, _master, _server):
        with pytest.raises(errors.PortInUse):
            await GrpcServer(Keeper(), Keeper()).start("127.0.0.1", caller.port)

    serve(scenario)


def test_an_address_of_another_machine_is_named():
    """It is not ours to listen on."""
    with pytest.raises(errors.InvalidAddress, match=r"192\.0\.2\.1"):
        start("192.0.2.1", 0, plain=True)


def test_off_loopback_it_speaks_tls():
    """Else keys would be heard on the way; unless a proxy speaks it."""
    with pytest.raises(errors.InvalidConfig, match="without TLS"):
        start("0.0.0.0", 0)
    assert start("0.0.0.0", 0, plain=True)


def test_tls_with_a_certificate_that_is_renewed(tmp_path):
    """Callers who trust it come in; who comes after the renewal sees the new one; in the clear nobody does."""

    async def hears(port, chain):
        trusted = grpc.ssl_channel_credentials(chain)
        async with grpc.aio.secure_channel(f"localhost:{port}", trusted) as channel:
            try:
                return (await Caller(port, channel).ask("ServerLive", b"", m.ServerLiveResponse, timeout=5)).live
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017 - one of two right ends
                return False

    async def main():
        first, second = (ServerTls.keep(tmp_path / name, ["localhost"], time.time()).pair for name in ("a", "b"))
        shown = [first]
        server = GrpcServer(Keeper(), Keeper())
        port = await server.start("127.0.0.1", 0, tls=lambda: shown[0])
        try:
            plain = Caller(port)
            assert (await plain.refused("ServerLive", b"", timeout=5))[0] == "UNAVAILABLE"
            await plain.channel.close()
            assert (await hears(port, first[1]), await hears(port, second[1])) == (True, False)
            shown[0] = second
            assert (await hears(port, first[1]), await hears(port, second[1])) == (False, True)
        finally:
            await server.close()

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    asyncio.run(main())
