"""What every link promises, on every transport."""

from __future__ import annotations

import asyncio

import pytest

from msrt import errors
from msrt.links.link import PARENT
from tests.runtime.links.rig import SOON, until

ODD = [b"", b"\x00", b"header", bytes(range(256)) * 300]


async def greeted(rig, who="a"):
    """A listener and a dialler that have heard each other, and the dialler's route."""
    master = await rig.listen()
    node = await rig.dial(who)
    await node.send([b"hello"])
    route, _, _ = await master.packet()
    return master, node, route


def test_packets_travel_both_ways_whole(rig):
    """Frames arrive as they were sent, empty and large ones too, with the principal that the transport proved."""

    async def scenario(rig):
        master = await rig.listen()
        node = await rig.dial()
        await node.send(ODD)
        route, principal, frames = await master.packet()
        assert principal == rig.principal("a")
        assert frames == ODD
        await master.send(ODD[::-1], route)
        route, _, frames = await node.packet()
        assert route == PARENT
        assert frames == ODD[::-1]

    rig.run(scenario)


def test_the_same_in_another_dress(variant):
    """Unix sockets and TLS: many large packets, a kill, a goodbye."""

    async def scenario(rig):
        master, node, route = await greeted(rig)
        for number in range(30):
            await node.send([number.to_bytes(1, "big"), bytes(200_000)])
            await master.send([number.to_bytes(1, "big"), bytes(200_000)], route)
        for number in range(30):
            for end in (master, node):
                assert (await end.packet())[2] == [number.to_bytes(1, "big"), bytes(200_000)]
        peer = await rig.process("b")
        other, _, _ = await master.packet(15.0)
        peer.kill()
        assert await master.lost(other, rig.killed_within_s) is None
        await node.link.close()
        assert await master.lost(route, 1.0) is None

    variant.run(scenario)


def test_the_address_has_the_real_port(rig):
    """Port 0 becomes the port that was taken."""

    async def scenario(rig):
        master = await rig.listen()
        assert not master.link.address.endswith(":0")

    rig.run(scenario)


def test_a_packet_of_the_limit_passes_and_a_larger_one_is_refused(rig):
    """FrameTooLarge at the sender, before anything is sent; the link goes on."""

    async def scenario(rig):
        master, node, route = await greeted(rig)
        assert node.link.limit == rig.limit
        for sender, to in ((node, PARENT), (master, route)):
            with pytest.raises(errors.FrameTooLarge):
                sender.link.send(to, [b"x", bytes(rig.limit)])
        await node.send([bytes(rig.limit - 10), bytes(10)])
        assert sum(map(len, (await master.packet())[2])) == rig.limit
        await master.send([bytes(rig.limit)], route)
        assert len((await node.packet())[2][0]) == rig.limit

    rig.run(scenario)


def test_an_unknown_route_is_disconnected(rig):
    """Nothing is dropped without a word."""

    async def scenario(rig):
        master = await rig.listen()
        with pytest.raises(errors.Disconnected):
            master.link.send(b"nobody", [b"x"])

    rig.run(scenario)


def test_each_peer_has_its_own_route(rig):
    """Answers go to who asked."""

    async def scenario(rig):
        master = await rig.listen()
        nodes = {who: await rig.dial(who) for who in ("a", "b")}
        for who, node in nodes.items():
            await node.send([who.encode()])
        for _ in nodes:
            route, principal, (who,) = await master.packet()
            assert principal == rig.principal(who.decode())
            await master.send([b"to " + who], route)
        for who, node in nodes.items():
            assert (await node.packet())[2] == [f"to {who}".encode()]
            assert not node.packets

    rig.run(scenario)


def test_a_dialler_may_come_first(rig):
    """A dial before the master listens succeeds when it does."""

    async def scenario(rig):
        first = await rig.listen()
        url = first.link.address
        await first.link.close()
        node = await rig.dial(ready=False)
        master = await rig.listen(url=url)

        async def greet():
            while not master.packets:
                node.link.send(PARENT, [b"hello"])
                await asyncio.sleep(0.02)

        await asyncio.wait_for(greet(), SOON)

    rig.run(scenario)


def test_a_goodbye_is_noticed_at_once(rig):
    """Closing the dialler tells the master which route is gone."""

    async def scenario(rig):
        master, node, route = await greeted(rig)
        await node.link.close()
        assert await master.lost(route, 1.0) is None
        with pytest.raises(errors.Disconnected):
            master.link.send(route, [b"x"])

    rig.run(scenario)


def test_a_killed_peer_is_noticed(rig):
    """SIGKILL of the peer's process: gone within a second, without a heartbeat of ours."""

    async def scenario(rig):
        master = await rig.listen()
        peer = await rig.process("a")
        route, _, frames = await master.packet(15.0)
        assert frames == [b"alive"]
        peer.kill()
        assert await master.lost(route, rig.killed_within_s) is None

    rig.run(scenario)


def test_a_master_that_comes_back_is_found_again(rig):
    """The dialler hears that the master went, and `writable` when it is back; a new route then."""

    async def scenario(rig):
        master, node, _ = await greeted(rig)
        url = master.link.address
        await master.link.close()
        await node.lost(PARENT)
        rooms = node.rooms
        again = await rig.listen(url=url)
        await until(lambda: node.rooms > rooms)
        await node.send([b"back"])
        assert (await again.packet())[2] == [b"back"]

    rig.run(scenario)


def test_a_peer_that_is_not_enrolled_gets_a_typed_error(rig):
    """Refused with NotEnrolled, and nothing of it reaches the master."""

    async def scenario(rig):
        master = await rig.listen()
        node = await rig.dial("stranger", ready=False)
        assert isinstance(await node.lost(PARENT), errors.NotEnrolled)
        assert not node.link.send(PARENT, [b"let me in"])
        assert not master.packets

    rig.run(scenario)


def test_a_dropped_peer_is_forgotten(rig):
    """After `drop` its route is unknown, and `gone` is not told: we did it."""

    async def scenario(rig):
        master, _, route = await greeted(rig)
        master.link.drop(route)
        with pytest.raises(errors.Disconnected):
            master.link.send(route, [b"x"])
        await asyncio.sleep(0.1)
        assert not [who for who, _ in master.gones if who == route]

    rig.run(scenario)


def test_back_pressure_says_false_and_then_writable(rig):
    """A sender that is faster than the link is told so, and told when it may go on; nothing that was taken is lost."""

    async def scenario(rig):
        master, node, _ = await greeted(rig)
        taken, frame = 0, bytes(60_000)
        while node.link.send(PARENT, [taken.to_bytes(4, "big"), frame]):
            taken += 1
            assert taken < 5_000
        rooms = node.rooms
        await until(lambda: node.rooms > rooms)
        await node.send([b"last"])
        await until(lambda: len(master.packets) == taken + 1)
        numbers = [bytes(frames[0]) for _, _, frames in master.packets]
        assert numbers == [*(number.to_bytes(4, "big") for number in range(taken)), b"last"]

    rig.run(scenario)


def test_sixty_four_in_flight_come_back(rig):
    """Many small packets at once, each answered once and in order."""

    async def scenario(rig):
        master, node, _ = await greeted(rig)
        total, sent, back = 1_000, 0, []
        master.on_packet = lambda route, _principal, frames: master.link.send(route, frames)

        def answered(_route, _principal, frames):
            nonlocal sent
            back.append(int.from_bytes(frames[0], "big"))
            if sent < total and node.link.send(PARENT, [sent.to_bytes(4, "big"), bytes(256)]):
                sent += 1

        node.on_packet = answered
        for _ in range(64):
            assert node.link.send(PARENT, [sent.to_bytes(4, "big"), bytes(256)])
            sent += 1
        await until(lambda: len(back) == total, 20.0)
        assert back == list(range(total))

    rig.run(scenario)


def test_a_closed_link_sends_nothing(rig):
    """Disconnected, not a crash, when the session is late."""

    async def scenario(rig):
        master, node, route = await greeted(rig)
        await node.link.close()
        await master.link.close()
        for sender, to in ((node, PARENT), (master, route)):
            with pytest.raises(errors.Disconnected):
                sender.link.send(to, [b"x"])

    rig.run(scenario)


def test_the_master_proves_itself(rig):
    """What a dialler receives carries the master's principal."""

    async def scenario(rig):
        master, node, route = await greeted(rig)
        await master.send([b"x"], route)
        _, principal, _ = await node.packet()
        assert principal == rig.master_principal

    rig.run(scenario)
