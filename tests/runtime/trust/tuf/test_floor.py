"""The shell of a floor under virtual time: below a real repository, over restarts, cuts and a clock never set."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from msrt.artifacts import ArtifactStore
from msrt.errors import BadSignature, Disconnected, MsrtError, NotFound, NotTrusted, TrustExpired
from msrt.trust.identity import Identity, Purpose
from msrt.trust.tuf import Claim, Floor
from msrt.trust.tuf.floor import BUILT
from msrt.world.network import Faults
from msrt.world.simulation import Simulation
from msrt_cloud.signing import Periods, Repository, SeededRing
from msrt_cloud.signing.rotation import next_root, sign_root
from msrt_cloud.signing.signed import encode

CLOUD = Identity(b"a" * 32, b"b" * 32)
DAY = 86_400.0
PERIODS = Periods(14 * DAY, 365 * DAY, 730 * DAY)
ONE, TWO, THREE = (f"models/default/net/{number}" for number in (1, 2, 3))


def digest(path):
    return hashlib.sha256(path.encode()).hexdigest()


def claim(path, **more):
    return Claim(path, digest(path), len(path), **more)


def target(path):
    return {path: (digest(path), len(path))}


class Node:
    """A process with a floor in it; `above` answers it and hands out artifacts."""

    def __init__(self, world, rig):
        self.world, self.rig = world, rig
        self.artifacts = ArtifactStore(world, bound_bytes=1 << 20)
        self.floor = Floor(
            world, self.artifacts, CLOUD.public, ask=self._ask, fetch=self._fetch, first_root=rig.first_root
        )

    async def run(self):
        await self.floor.run()

    async def _ask(self, params):
        return await self.rig.above.answer(params)

    async def _fetch(self, wanted, offset, sink):
        if not self.rig.here:
            raise Disconnected("away")
        data = self.rig.serve(wanted, bytes(await self.rig.artifacts.read(wanted)))
        await sink.write(offset, data[offset:])
        await sink.complete()


class Rig:
    """A repository in one process, a floor in another."""

    def __init__(self, sim, periods=PERIODS):
        self.sim, self.periods, self.here, self.first_root = sim, periods, True, b""
        self.above, self.serve = self, lambda _digest, data: data
        self.before = {}

    async def start(self):
        self.sim.add("cloud", lambda world, _: Quiet(world), None)
        self.sim.add("floor", lambda world, _: Node(world, self), None)
        await asyncio.sleep(0.1)
        world = self.sim.node("cloud").world
        self.artifacts = ArtifactStore(world)
        self.ring = SeededRing(b"seed")
        self.repository = Repository(world, CLOUD, self.artifacts, self.ring, self.periods)
        await self.repository.open(lambda: self.before)

    async def answer(self, params):
        if not self.here:
            raise Disconnected("away")
        return self.repository.answer(params)

    @property
    def floor(self):
        return self.sim.node("floor").floor

    @property
    def wall(self):
        return self.sim.node("cloud").world.wall()

    async def reborn(self):
        await asyncio.sleep(1.5)  # what was accepted is on disk
        self.sim.crash("floor")
        self.sim.restart("floor")
        await asyncio.sleep(0.5)

    async def rotate(self, *roles):
        fresh = {role: [self.ring.make(role + "'").public_key] for role in roles}
        current = self.repository.roots[-1]
        metadata = next_root(current, self.wall, self.periods.root, fresh)
        sign_root(metadata, current, self.ring.signers())
        await self.repository.take([encode(metadata)])


class Quiet:
    def __init__(self, world):
        self.world = world

    async def run(self):
        await asyncio.Event().wait()


def simulate(scenario, **more):
    with Simulation(1, Faults()) as sim:

        async def run():
            rig = Rig(sim, **more)
            await rig.start()
            await scenario(rig)

        sim.run(run(), until=1e9)


def test_what_was_published_is_accepted_and_nothing_else():
    """By path, digest and size."""

    async def scenario(rig):
        await rig.repository.publish(target(ONE))
        await rig.floor.vouch(claim(ONE))
        with pytest.raises(BadSignature, match="not what was signed"):
            await rig.floor.vouch(Claim(ONE, digest(TWO), len(TWO)))
        with pytest.raises(BadSignature, match="not what was signed"):
            await rig.floor.vouch(Claim(ONE, digest(ONE), len(ONE) + 1))
        with pytest.raises(NotTrusted, match="nobody signed"):
            await rig.floor.vouch(claim(TWO))
        assert rig.floor.values()["trust_refused"] == 3

    simulate(scenario)


def test_what_was_withdrawn_is_refused():
    """Once the floor hears of it."""

    async def scenario(rig):
        await rig.repository.publish(target(ONE) | target(TWO))
        await rig.floor.vouch(claim(ONE))
        await rig.repository.publish({}, [ONE])
        await rig.floor.vouch(claim(TWO))
        await rig.floor.refresh()
        with pytest.raises(NotTrusted):
            await rig.floor.vouch(claim(ONE))

    simulate(scenario)


def test_nothing_new_is_accepted_once_the_timestamp_has_ended():
    """What was accepted goes on, over a restart as well; when the cloud signs again all is well."""

    async def scenario(rig):
        await rig.repository.publish(target(ONE) | target(TWO))
        await rig.floor.vouch(claim(ONE))
        rig.here = False
        await asyncio.sleep(15 * DAY)
        await rig.reborn()
        await rig.floor.vouch(claim(ONE))
        with pytest.raises(Disconnected):
            await rig.floor.vouch(claim(TWO))
        assert rig.floor.values()["trust_left_s"] < 0
        rig.here = True
        with pytest.raises(TrustExpired, match="timestamp metadata has ended"):
            await rig.floor.vouch(claim(TWO))
        assert rig.floor.values()["trust_expired"] == 1
        await rig.repository.renew()
        await rig.floor.vouch(claim(TWO))

    simulate(scenario)


def test_a_floor_without_its_parent_answers_from_its_own_disk():
    """After a restart, while nothing has ended."""

    async def scenario(rig):
        await rig.repository.publish(target(ONE))
        await rig.floor.vouch(claim(ONE))
        rig.here = False
        await rig.reborn()
        await rig.floor.vouch(claim(ONE))

    simulate(scenario)


def test_timestamps_are_renewed_before_they_end():
    """Floors that are only left alone always trust; roots and lists are signed again in time as well."""

    async def scenario(rig):
        await rig.repository.publish(target(ONE))
        await rig.floor.vouch(claim(ONE))
        task = asyncio.get_running_loop().create_task(rig.repository.run())
        for _ in range(3):
            await asyncio.sleep(2000)
            await rig.floor.vouch(claim(ONE))
            assert rig.floor.values()["trust_left_s"] > 0
        task.cancel()
        assert rig.repository.root.version > 1
        assert rig.floor.values()["trust_root"] == rig.repository.root.version

    simulate(scenario, periods=Periods(1000.0, 3000.0, 6000.0))


def test_a_floor_that_slept_takes_several_roots_in_order():
    """Two rotations between two words of the cloud."""

    async def scenario(rig):
        await rig.repository.publish(target(ONE))
        await rig.floor.vouch(claim(ONE))
        await rig.rotate("root")
        await rig.rotate("root", "timestamp", "snapshot", "targets")
        await rig.repository.publish(target(TWO))
        await rig.floor.vouch(claim(TWO))
        assert rig.floor.values()["trust_root"] == 3

    simulate(scenario)


def test_a_newcomer_begins_with_the_first_root_and_the_cloud_identity():
    """A first root that another identity vouches for is none."""

    async def scenario(rig):
        await rig.rotate("root")
        await rig.repository.publish(target(ONE))
        rig.repository._anchor = Identity(b"x" * 32, b"y" * 32).sign(rig.repository.roots[0], Purpose.ROOT)
        with pytest.raises(BadSignature):
            await rig.floor.refresh()
        assert rig.floor.values() == {}
        rig.repository._anchor = CLOUD.sign(rig.repository.roots[0], Purpose.ROOT)
        await rig.floor.vouch(claim(ONE))
        assert rig.floor.values()["trust_root"] == 2

    simulate(scenario)


@pytest.mark.parametrize("what", ["cut", "endless", "flipped"])
def test_metadata_that_was_touched_on_its_way_is_refused(what):
    """Truncated, longer than signed, changed: nothing of it comes into force, and the next try is clean."""

    async def scenario(rig):
        await rig.repository.publish(target(ONE))
        await rig.floor.vouch(claim(ONE))
        await rig.repository.publish(target(TWO))
        touched = {"cut": lambda d: d[:-1], "endless": lambda d: d * 100, "flipped": lambda d: d[:-1] + b"x"}[what]
        rig.serve = lambda _digest, data: touched(data)
        with pytest.raises(MsrtError):
            await rig.floor.vouch(claim(TWO))
        await rig.floor.vouch(claim(ONE))
        rig.serve = lambda _digest, data: data
        await rig.floor.vouch(claim(TWO))

    simulate(scenario)


def test_a_clock_that_was_never_set_goes_by_the_last_timestamp():
    """It trusts, and knows at least as late a time as the cloud had when it signed."""

    async def scenario(rig):
        await asyncio.sleep(30 * DAY)
        await rig.repository.renew()
        await rig.repository.publish(target(ONE))
        rig.sim.skew("floor", -rig.wall)
        await rig.floor.vouch(claim(ONE))
        assert rig.floor.values()["trust_clock"] == 0
        assert rig.floor.now >= BUILT + 30 * DAY

    simulate(scenario)


def test_below_a_parent_from_before_tuf_the_identity_counts():
    """Until the first root comes; from then on nothing counts but what is signed under it."""

    async def scenario(rig):
        old = claim(ONE, signed=b"manifest", signature=CLOUD.sign(b"manifest", Purpose.MANIFEST))
        rig.above = Old()
        await rig.floor.vouch(old)
        with pytest.raises(BadSignature):
            await rig.floor.vouch(claim(ONE, signed=b"other", signature=old.signature))
        rig.above = rig
        await rig.floor.refresh()
        with pytest.raises(NotTrusted):
            await rig.floor.vouch(old)
        rig.above = Old()
        with pytest.raises(NotTrusted):
            await rig.floor.vouch(old)

    simulate(scenario)


class Old:
    """A parent of the release before, or one that hides what it knows."""

    async def answer(self, _params):
        raise NotFound("a parent has no method 'trust.get'")


def test_where_the_certificate_names_a_root_the_identity_counts_for_nothing():
    """A parent that hides `trust.get` gets nothing used; away, it is asked again; once the root comes all is well."""

    async def scenario(rig):
        await rig.repository.publish(target(ONE))
        rig.first_root = rig.repository.first_root
        await rig.reborn()
        signed = claim(ONE, signed=b"manifest", signature=CLOUD.sign(b"manifest", Purpose.MANIFEST))
        rig.above = Old()
        with pytest.raises(NotTrusted, match="its tree has one"):
            await rig.floor.vouch(signed)
        rig.above, rig.here = rig, False
        with pytest.raises(Disconnected):
            await rig.floor.vouch(signed)
        rig.here = True
        await rig.floor.vouch(signed)

    simulate(scenario)


def test_a_first_root_that_the_certificate_does_not_name_is_refused():
    """Though the cloud's identity vouches for it: it is of a repository that this tree had before, or of a thief."""

    async def scenario(rig):
        await rig.repository.publish(target(ONE))
        rig.first_root = b"another".ljust(32)
        await rig.reborn()
        with pytest.raises(NotTrusted, match="not the one that the certificate"):
            await rig.floor.vouch(claim(ONE))

    simulate(scenario)


def test_a_child_that_misses_something_makes_its_parent_look():
    """An edge whose own timestamp is old asks the cloud for its devices' sake."""

    async def scenario(rig):
        rig.sim.add("below", lambda world, _: Node(world, Between(rig)), None)
        await asyncio.sleep(0.1)
        await rig.repository.publish(target(ONE))
        below = rig.sim.node("below").floor
        await rig.floor.refresh()
        await below.vouch(claim(ONE))
        await asyncio.sleep(5)
        await rig.repository.publish(target(TWO))
        await below.vouch(claim(TWO))
        assert rig.floor.values()["trust_timestamp"] == below.values()["trust_timestamp"]

    simulate(scenario)


class Between:
    """The rig as a child of the floor sees it."""

    here, first_root = True, b""

    def __init__(self, rig):
        self.rig, self.artifacts, self.serve, self.above = rig, rig.artifacts, rig.serve, rig.floor


def test_a_repository_comes_back_as_it_was():
    """A restart of the cloud signs nothing anew but what the journal has more."""

    async def scenario(rig):
        await rig.repository.publish(target(ONE))
        world = rig.sim.node("cloud").world
        again = Repository(world, CLOUD, rig.artifacts, rig.ring, rig.periods)
        await again.open(lambda: target(ONE) | target(THREE))
        await rig.floor.vouch(claim(ONE))
        rig.repository = again
        await rig.floor.vouch(claim(THREE))

    simulate(scenario)


def test_a_tree_from_before_tuf_is_taken_over_at_the_first_start():
    """All that the journal names is signed for."""

    async def scenario(rig):
        await rig.floor.vouch(claim(ONE))
        await rig.floor.vouch(claim(TWO))

    with Simulation(1, Faults()) as sim:

        async def run():
            rig = Rig(sim)
            rig.before = target(ONE) | target(TWO)
            await rig.start()
            await scenario(rig)

        sim.run(run(), until=1e9)
