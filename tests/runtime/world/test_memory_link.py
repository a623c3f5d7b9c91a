"""The simulated link has the manners of the real ones, good and bad."""

from __future__ import annotations

import asyncio

import pytest

from msrt.errors import Disconnected, FrameTooLarge, InvalidAddress, NotEnrolled, PortInUse, WrongServerKey
from msrt.links.link import PARENT, Credentials
from msrt.links.memory import LIMIT, public_key
from msrt.links.memory_wire import FLIGHT
from msrt.world.network import Faults
from msrt.world.simulation import Simulation

SECRET, OTHER = bytes(range(32)), bytes(range(1, 33))
CERTAIN = Faults(notice=1.0)


class Ear:
    """A sink that notes what it hears, with the virtual time."""

    def __init__(self):
        self.packets, self.gones, self.rooms, self.routes = [], [], 0, []

    def received(self, route, principal, frames):
        self.packets.append((route, principal, [bytes(frame) for frame in frames]))
        if route not in self.routes:
            self.routes.append(route)

    def gone(self, route, error):
        self.gones.append((route, error))

    def writable(self):
        self.rooms += 1


class Pair:
    """A listener on `p` and a dialler on `c`, started."""

    def __init__(self, sim, *, allow=lambda _key: True, server_key=b"", listen="mem://", dial="mem://p"):
        self.sim = sim
        self.up, self.down = Ear(), Ear()
        self.listener = sim.world("p").links.listen(listen, Credentials(secret_key=SECRET), allow)
        self.dialer = sim.world("c").links.dial(dial, Credentials(secret_key=OTHER, server_key=server_key))

    async def start(self, settle=0.1):
        await self.listener.start(self.up)
        await self.dialer.start(self.down)
        await asyncio.sleep(settle)
        return self


def simulate(scenario, faults=CERTAIN, seed=1):
    with Simulation(seed, faults) as sim:
        sim.run(scenario(sim), until=300)


def test_packets_go_both_ways_with_proof_of_the_sender():
    """A master sees the dialler's public key, answers by route; frames arrive as they were when sent."""

    async def scenario(sim):
        pair = await Pair(sim, server_key=public_key(SECRET)).start()
        buffer = bytearray(b"hello")
        assert pair.dialer.send(PARENT, [buffer, memoryview(b"xy")])
        buffer[:] = b"later"
        await asyncio.sleep(0.1)
        [(route, principal, frames)] = pair.up.packets
        assert (principal, frames) == (public_key(OTHER), [b"hello", b"xy"])
        assert pair.listener.send(route, [b"back"])
        await asyncio.sleep(0.1)
        assert pair.down.packets == [(PARENT, public_key(SECRET), [b"back"])]

    simulate(scenario)


def test_the_dialler_may_come_first():
    """Dialling goes on until the listener is there; until then `send` says False, then `writable` is called."""

    async def scenario(sim):
        pair = Pair(sim)
        await pair.dialer.start(pair.down)
        await asyncio.sleep(3)
        assert pair.dialer.send(PARENT, [b"x"]) is False
        assert all(isinstance(error, Disconnected) for _, error in pair.down.gones)
        await pair.listener.start(pair.up)
        await asyncio.sleep(4)
        assert pair.down.rooms == 1
        assert pair.dialer.send(PARENT, [b"x"])

    simulate(scenario)


def test_a_wrong_server_key_is_told_to_both():
    """A dialler that expects another key hears WrongServerKey, and no packet passes."""

    async def scenario(sim):
        pair = await Pair(sim, server_key=public_key(OTHER)).start()
        assert isinstance(pair.down.gones[0][1], WrongServerKey)
        assert isinstance(pair.up.gones[0][1], WrongServerKey)
        assert pair.dialer.send(PARENT, [b"x"]) is False

    simulate(scenario)


def test_a_key_that_is_not_allowed_is_refused():
    """`allow` is asked with the public key; refused, the dialler hears NotEnrolled and tries again later."""
    allowed = set()

    async def scenario(sim):
        pair = await Pair(sim, allow=allowed.__contains__).start()
        assert isinstance(pair.down.gones[0][1], NotEnrolled)
        allowed.add(public_key(OTHER))
        await asyncio.sleep(5)
        assert pair.down.rooms == 1

    simulate(scenario)


def test_limits_are_kept():
    """Over the limit is FrameTooLarge; a URL can set MQTT's."""

    async def scenario(sim):
        pair = await Pair(sim, dial="mem://p?limit=262144").start()
        assert (pair.dialer.limit, pair.listener.limit) == (262144, LIMIT)
        with pytest.raises(FrameTooLarge):
            pair.dialer.send(PARENT, [bytes(200_000), bytes(62_145)])
        assert pair.dialer.send(PARENT, [bytes(200_000), bytes(62_144)])

    simulate(scenario)


def test_a_slow_reader_holds_the_sender_back():
    """When too much is under way `send` says False, and `writable` is called when there is room again."""

    async def scenario(sim):
        pair = await Pair(sim).start()
        sim.stop("p")
        sent = 0
        while pair.dialer.send(PARENT, [bytes(1 << 18)]):
            sent += 1
        assert sent == FLIGHT >> 18
        await asyncio.sleep(1)
        rooms = pair.down.rooms
        sim.cont("p")
        await asyncio.sleep(1)
        assert pair.down.rooms == rooms + 1
        assert len(pair.up.packets) == sent

    simulate(scenario)


def test_closing_is_told_and_dialling_starts_again():
    """A closed or dropped connection is `gone` at the other end, after its last packets; the dialler comes back."""

    async def scenario(sim):
        pair = await Pair(sim).start()
        pair.dialer.send(PARENT, [b"x"])
        await asyncio.sleep(0.1)
        pair.listener.send(pair.up.routes[0], [b"last words"])
        pair.listener.drop(pair.up.routes[0])
        with pytest.raises(Disconnected):
            pair.listener.send(pair.up.routes[0], [b"x"])
        await asyncio.sleep(1)
        assert pair.down.packets[-1][2] == [b"last words"]
        assert pair.down.gones == [(PARENT, None)]
        pair.dialer.send(PARENT, [b"again"])
        await asyncio.sleep(0.1)
        assert len(pair.up.routes) == 2
        await pair.dialer.close()
        await asyncio.sleep(0.1)
        assert pair.up.gones == [(pair.up.routes[1], None)]

    simulate(scenario)


@pytest.mark.parametrize(("notice", "heard"), [(1.0, True), (0.0, False)])
def test_a_crash_is_noticed_or_not(notice, heard):
    """A killed peer is `gone` only if its host says so; else there is silence until it lives again."""

    async def scenario(sim):
        pair = await Pair(sim).start()
        pair.dialer.send(PARENT, [b"x"])
        await asyncio.sleep(0.1)
        sim.crash("p")
        await asyncio.sleep(2)
        assert bool(pair.down.gones) is heard
        pair.dialer.send(PARENT, [b"into the void"])
        sim.restart("p")
        ear = Ear()
        await sim.world("p").links.listen("mem://p", Credentials(secret_key=SECRET), lambda _key: True).start(ear)
        for _ in range(40):
            await asyncio.sleep(0.1)
            pair.dialer.send(PARENT, [b"hello?"])
        assert ear.packets[-1][2] == [b"hello?"]
        assert (PARENT, None) in pair.down.gones

    simulate(scenario, Faults(notice=notice))


def test_a_crashed_dialler_is_noticed():
    """The listener hears of a killed child too."""

    async def scenario(sim):
        pair = await Pair(sim).start()
        pair.dialer.send(PARENT, [b"x"])
        await asyncio.sleep(0.1)
        sim.crash("c")
        await asyncio.sleep(0.1)
        assert pair.up.gones == [(pair.up.routes[0], None)]
        with pytest.raises(Disconnected):
            pair.dialer.send(PARENT, [b"from the dead"])

    simulate(scenario)


def test_a_partition_is_silent():
    """Nobody is told of a partition; packets vanish, and pass again on the same connection when it heals."""

    async def scenario(sim):
        pair = await Pair(sim).start()
        pair.dialer.send(PARENT, [b"before"])
        await asyncio.sleep(0.1)
        sim.partition("p", "c")
        pair.dialer.send(PARENT, [b"lost"])
        pair.listener.send(pair.up.routes[0], [b"lost"])
        await asyncio.sleep(10)
        sim.heal("c", "p")
        sim.cut("p", "c")
        pair.dialer.send(PARENT, [b"after"])
        pair.listener.send(pair.up.routes[0], [b"lost"])
        await asyncio.sleep(1)
        assert [frames[0] for _, _, frames in pair.up.packets] == [b"before", b"after"]
        assert (pair.up.gones, pair.down.gones, pair.down.packets) == ([], [], [])

    simulate(scenario)


def test_weather_loses_doubles_and_overtakes():
    """Bad weather does all it says; in calm weather order holds."""

    async def scenario(sim):
        pair = await Pair(sim).start()
        for number in range(200):
            pair.dialer.send(PARENT, [b"%d" % number])
        await asyncio.sleep(5)
        calm = [int(frames[0]) for _, _, frames in pair.up.packets]
        assert calm == list(range(200))
        sim.weather(Faults(loss=0.2, duplicate=0.2, reorder=0.2, jitter=0.01))
        pair.up.packets.clear()
        for number in range(200):
            pair.dialer.send(PARENT, [b"%d" % number])
        await asyncio.sleep(5)
        stormy = [int(frames[0]) for _, _, frames in pair.up.packets]
        assert 100 < len(set(stormy)) < 200
        assert len(stormy) > len(set(stormy))
        assert stormy != sorted(stormy)

    simulate(scenario)


def test_bandwidth_takes_its_time():
    """A megabyte over a megabyte a second takes a second."""

    async def scenario(sim):
        pair = await Pair(sim, listen="mem://").start()
        for _ in range(10):
            pair.dialer.send(PARENT, [bytes(100_000)])
        await asyncio.sleep(0.55)
        assert len(pair.up.packets) == 5

    simulate(scenario, Faults(bandwidth=1e6))


def test_addresses_are_checked():
    """One listener an address, on its own node; other schemes are refused."""

    async def scenario(sim):
        pair = await Pair(sim).start()
        links = sim.world("p").links
        with pytest.raises(PortInUse, match="mem://p"):
            await links.listen("mem://p", Credentials(), lambda _key: True).start(Ear())
        await links.listen("mem://p/second", Credentials(), lambda _key: True).start(Ear())
        with pytest.raises(InvalidAddress, match="name the node itself"):
            links.listen("mem://c", Credentials(), lambda _key: True)
        with pytest.raises(InvalidAddress):
            links.dial("tcp://p:1", Credentials())
        await pair.listener.close()
        await links.listen("mem://p", Credentials(), lambda _key: True).start(Ear())

    simulate(scenario)


def test_user_names_are_principals_too():
    """Without a key the user name is what the transport proves, as on MQTT."""

    async def scenario(sim):
        ear = Ear()
        await sim.world("p").links.listen("mem://", Credentials(), lambda _key: True).start(ear)
        dialer = sim.world("c").links.dial("mem://p", Credentials(username="node-id"))
        await dialer.start(Ear())
        await asyncio.sleep(0.1)
        dialer.send(PARENT, [b"x"])
        await asyncio.sleep(0.1)
        assert ear.packets[0][1] == b"node-id"

    simulate(scenario)
