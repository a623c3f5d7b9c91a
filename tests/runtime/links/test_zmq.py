"""What only ZeroMQ can get wrong."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys

import pytest
import zmq

from msrt import errors
from msrt.links import zmq as zeromq
from msrt.links.link import PARENT, Credentials
from tests.runtime.links.flood import ENOUGH
from tests.runtime.links.rig import MASTER, IpcRig, keys, until


async def greeted(rig):
    master, node = await rig.listen(), await rig.dial()
    await node.send([b"hello"])
    route, _, _ = await master.packet()
    return master, node, route


def raw(rig, master, *, secret=b"", routing_id=b"raw"):
    """A foreign DEALER, with or without CURVE."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger = 0
    socket.routing_id = routing_id
    socket.reconnect_ivl = -1
    socket.sndtimeo = 2_000
    if secret:
        socket.curve_serverkey = keys(MASTER)[0]
        socket.curve_secretkey = secret
        socket.curve_publickey = zmq.curve_public(zmq.utils.z85.encode(secret))
    socket.connect(master.link.address)
    rig.sockets.append(socket)
    return socket


def test_a_wrong_server_key_is_named(zmq_rig):
    """The dialler hears WrongServerKey at the first word, the master hears of a client that does not know it."""

    async def scenario(rig):
        master = await rig.listen()
        credentials = Credentials(secret_key=keys("a")[1], server_key=keys("somebody else")[0])
        node = await rig._start(zeromq.dial(master.link.address, credentials))
        assert isinstance(await node.lost(PARENT), errors.WrongServerKey)
        assert isinstance(await master.lost(b""), errors.WrongServerKey)

    zmq_rig.run(scenario)


def test_a_client_without_curve_gets_nothing_through(zmq_rig):
    """A plain socket cannot speak to a master that has a key."""

    async def scenario(rig):
        master = await rig.listen()
        socket = raw(rig, master)
        with contextlib.suppress(zmq.Again):  # it may have been turned away already
            socket.send(b"hello", zmq.NOBLOCK)
        await master.lost(b"")
        assert not master.packets

    zmq_rig.run(scenario)


def test_allow_is_asked_at_every_handshake(zmq_rig):
    """A key that is revoked while connected stays until it is dropped, and then does not get in again."""

    async def scenario(rig):
        allowed = {rig.principal("a")}
        master = await rig.listen(lambda key: key in allowed)
        node = await rig.dial()
        await node.send([b"hello"])
        route, _, _ = await master.packet()
        allowed.clear()
        master.link.drop(route)
        assert await node.lost(PARENT) is None
        assert isinstance(await node.lost(PARENT), errors.NotEnrolled)

    zmq_rig.run(scenario)


def test_nothing_is_left_behind_whether_packets_come_in_bursts_or_alone(zmq_rig):
    """Answered from within the reading of what is answered, each comes back, in order, without another one's help."""

    async def scenario(rig):
        master, node, _ = await greeted(rig)
        master.on_packet = lambda route, _principal, frames: master.link.send(route, frames)
        for turn, count in enumerate((1, 12, 1, 2, 100, 1, 1)):
            said = [[b"%d.%d" % (turn, number)] for number in range(count)]
            for frames in said:
                assert node.link.send(PARENT, frames)
            assert [(await node.packet())[2] for _ in said] == said

    zmq_rig.run(scenario)


def test_a_port_in_use_is_said(zmq_rig):
    """PortInUse, and the first listener serves on."""

    async def scenario(rig):
        master, node, _ = await greeted(rig)
        with pytest.raises(errors.PortInUse):
            await rig.listen(url=master.link.address)
        await node.send([b"still"])
        assert (await master.packet())[2] == [b"still"]

    zmq_rig.run(scenario)


def test_a_socket_file_in_use_is_said(tmp_path):
    """Libzmq would take the file of a living process away without a word."""

    async def scenario(rig):
        master, node, _ = await greeted(rig)
        with pytest.raises(errors.PortInUse):
            await rig.listen(url=master.link.address)
        await node.send([b"still"])
        assert (await master.packet())[2] == [b"still"]
        assert oct((tmp_path / "link.sock").stat().st_mode)[-3:] == "600"

    IpcRig(tmp_path).run(scenario)


@pytest.mark.parametrize("url", ["tcp://nowhere.invalid:1", "tcp://127.0.0.1:99999", "nonsense://x"])
def test_an_address_that_cannot_be_bound_is_invalid(zmq_rig, url):
    """InvalidAddress names it."""

    async def scenario(rig):
        with pytest.raises(errors.InvalidAddress):
            await rig.listen(url=url)

    zmq_rig.run(scenario)


def test_a_dead_address_is_disconnected(zmq_rig):
    """Nobody there: a typed error each time it is tried, with growing pauses, and the process lives."""

    async def scenario(rig):
        node = await rig._start(zeromq.dial("tcp://127.0.0.1:9", Credentials()))
        assert isinstance(await node.lost(PARENT), errors.Disconnected)
        assert isinstance(await node.lost(PARENT), errors.Disconnected)

    zmq_rig.run(scenario)


def test_a_server_key_is_needed_where_there_is_a_key(zmq_rig):
    """CURVE without knowing whom is refused before it dials."""

    async def scenario(rig):
        with pytest.raises(errors.CallerError):
            await rig._start(zeromq.dial("tcp://127.0.0.1:9", Credentials(secret_key=keys("a")[1])))

    zmq_rig.run(scenario)


def test_an_oversized_frame_ends_its_connection_only(zmq_rig):
    """A foreign peer that sends more than the limit is cut off; others go on."""

    async def scenario(rig):
        master, node, _ = await greeted(rig)
        socket = raw(rig, master, secret=keys("b")[1])
        socket.send(b"small")
        route, _, _ = await master.packet()
        socket.send(bytes(rig.limit + 5_000))
        assert await master.lost(route) is None
        await node.send([b"still"])
        assert (await master.packet())[2] == [b"still"]

    zmq_rig.run(scenario)


def test_many_frames_over_the_limit_together_are_refused(zmq_rig):
    """Each frame within the limit, the packet not: FrameTooLarge, and the peer is dropped."""

    async def scenario(rig):
        master, node, _ = await greeted(rig)
        socket = raw(rig, master, secret=keys("b")[1])
        socket.send_multipart([bytes(300_000)] * 4)
        await until(lambda: master.gones)
        assert isinstance(master.gones[0][1], errors.FrameTooLarge)
        await node.send([b"still"])
        assert (await master.packet())[2] == [b"still"]

    zmq_rig.run(scenario)


def test_the_route_of_another_key_is_not_inherited(zmq_rig):
    """A second connection under the same routing id (handover) has its own principal."""

    async def scenario(rig):
        master = await rig.listen()
        first = raw(rig, master, secret=keys("a")[1], routing_id=b"same")
        first.send(b"first")
        assert (await master.packet())[:2] == (b"same", rig.principal("a"))
        second = raw(rig, master, secret=keys("b")[1], routing_id=b"same")
        second.send(b"second")
        assert (await master.packet())[:2] == (b"same", rig.principal("b"))
        first.close()
        await asyncio.sleep(0.1)
        await master.send([b"to the second"], b"same")
        await until(lambda: second.poll(0))
        assert second.recv() == b"to the second"

    zmq_rig.run(scenario)


def test_each_connection_has_a_new_route(zmq_rig):
    """A dialler that comes back is never taken for its earlier self."""

    async def scenario(rig):
        master, node, route = await greeted(rig)
        master.link.drop(route)
        await node.lost(PARENT)
        await until(lambda: node.link.send(PARENT, [b"again"]))
        assert (await master.packet())[0] != route

    zmq_rig.run(scenario)


def test_a_stopped_peer_is_noticed(zmq_rig):
    """SIGSTOP holds its sockets open; the heartbeats of the link notice within two seconds."""

    async def scenario(rig):
        master = await rig.listen()
        peer = await rig.process("a")
        route, _, _ = await master.packet(15.0)
        peer.send_signal(signal.SIGSTOP)
        try:
            assert await master.lost(route, 2.0) is None
        finally:
            peer.send_signal(signal.SIGCONT)

    zmq_rig.run(scenario)


def test_a_large_frame_arrives_without_a_copy(zmq_rig):
    """A large frame is a view of libzmq's memory, a small one bytes."""

    async def scenario(rig):
        master, node, _ = await greeted(rig)
        await node.send([b"small", bytes(500_000)])
        await until(lambda: master.packets)
        small, large = master.packets.popleft()[2]
        assert type(small) is bytes
        assert type(large) is memoryview

    zmq_rig.run(scenario)


def test_a_writable_buffer_is_taken_as_it_is(zmq_rig):
    """Only read-only frames are lent: what the caller changes after `send` is not sent."""

    async def scenario(rig):
        master, node, _ = await greeted(rig)
        buffer = bytearray(b"a" * 500_000)
        assert node.link.send(PARENT, [buffer, memoryview(buffer)])
        buffer[:] = b"b" * len(buffer)
        _, _, frames = await master.packet()
        assert [set(frame) for frame in frames] == [{ord("a")}, {ord("a")}]

    zmq_rig.run(scenario)


def test_a_sink_that_raises_loses_no_other_packet(zmq_rig):
    """A bug above costs its packet; the descriptor is edge-triggered, and what waits is read all the same."""

    async def scenario(rig):
        master, node, _ = await greeted(rig)
        loop, heard, faults = asyncio.get_running_loop(), [], []
        loop.set_exception_handler(lambda _loop, context: faults.append(context["exception"]))

        def received(_route, _principal, frames):
            heard.append(bytes(frames[0]))
            if len(heard) == 1:
                raise ZeroDivisionError

        master.on_packet = received
        for number in range(200):
            await node.send([b"%d" % number])
        await until(lambda: len(heard) == 200)
        assert [type(fault) for fault in faults] == [ZeroDivisionError]

    zmq_rig.run(scenario)


def test_without_keys_there_is_no_curve(zmq_rig):
    """Plain tcp, for tests: the principal is empty."""

    async def scenario(rig):
        master = await rig._start(zeromq.listen("tcp://localhost:0", Credentials(), lambda _key: False))
        node = await rig._start(zeromq.dial(master.link.address, Credentials()))
        await node.send([b"plain"])
        _, principal, frames = await master.packet()
        assert (principal, frames) == (b"", [b"plain"])

    zmq_rig.run(scenario)


@pytest.mark.slow
def test_a_parent_that_dies_in_the_middle_of_a_packet_takes_nobody_along():
    """Ten of them, killed while they talk: the child lives on, and whatever it was told came whole."""
    argv = [sys.executable, "-m", "tests.runtime.links.flood", "10"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10 * ENOUGH
