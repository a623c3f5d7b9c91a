"""What nothing names goes after its grace period: never what is named or in use, whatever happens in whatever order."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.artifacts import ArtifactStore
from msrt.errors import Conflict
from msrt.journal import facts
from msrt.journal.state import State
from msrt.world.memory import MemoryDisk
from msrt_cloud.orphans import Orphan, Orphans, judge, named
from tests.cloud.jobs import Region, bundle
from tests.cloud.rig import simulate, until
from tests.runtime.artifacts.rig import blob, digest_of, inline

GRACE_S = 100.0
THINGS = range(5)
USES = ("put", "name", "unname", "pin", "read", "lend", "give back")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(USES), st.sampled_from(THINGS)),
        st.tuples(st.just("wait"), st.integers(1, 150)),
        st.tuples(st.sampled_from(["look", "crash", "crash while it looks"]), st.just(0)),
    ),
    max_size=40,
)  # fmt: skip


class Cloud:
    """A disk, what is named on it, and what a process does with it; `needed` remembers when each was last needed."""

    def __init__(self):
        self.wall, self.names, self.needed = 0.0, set(), {}
        self.disk = MemoryDisk()
        self.start()

    def start(self):
        self.lent, self.pinned, self.dying = {}, set(), False
        world = SimpleNamespace(disk=self.disk, offload=inline, wall=lambda: self.wall)
        self.artifacts = ArtifactStore(world)
        self.orphans = Orphans(world, self.artifacts, self._named, GRACE_S)

    async def _named(self):
        return set(self.names)

    def use(self, digest):
        self.needed[digest] = self.wall

    async def step(self, what, which):
        digest = digest_of(blob(which, 50)) if which in THINGS else ""
        if what == "wait":
            self.wall += which
        elif what == "put":
            await self.artifacts.put_bytes(blob(which, 50))
            self.use(digest)
        elif what == "look":
            await self.orphans.look()
        elif what == "crash":
            self.disk = self.disk.crash()
            self.start()
        elif what == "crash while it looks":
            await self._dies()
        elif self.artifacts.has(digest):
            await self._at_hand(what, digest)
        self.check()

    async def _at_hand(self, what, digest):
        if what == "name":
            self.names.add(digest)
            await self.artifacts.read(digest)
        elif what == "unname":
            self.names.discard(digest)
        elif what == "pin":
            self.pinned ^= {digest}
            self.artifacts.pin(self.pinned, "test")
        elif what == "read":
            await self.artifacts.read(digest)
        elif what == "lend" and digest not in self.lent:
            self.lent[digest] = self.artifacts.lend(digest)
            await self.lent[digest].__aenter__()
        elif what == "give back" and digest in self.lent:
            await self.lent.pop(digest).__aexit__(None, None, None)
        if what != "unname":
            self.use(digest)

    async def _dies(self):
        """After the first one that it lets go, before it wrote anything down."""
        drop = self.artifacts.drop

        async def once(digest):
            await drop(digest)
            raise InterruptedError

        self.artifacts.drop = once
        with contextlib.suppress(InterruptedError):
            await self.orphans.look()
        self.disk = self.disk.crash()
        self.start()

    def check(self):
        """Named, pinned, lent: here. Used within the grace period: here."""
        must = self.names | self.pinned | self.lent.keys()
        must |= {digest for digest, wall in self.needed.items() if self.wall - wall < GRACE_S}
        assert not {digest for digest in must if digest in self.needed} - set(self.artifacts.digests())


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_nothing_goes_that_is_named_or_in_use_or_was_a_moment_ago(steps):
    """Over uploads, names that come and go, readers, crashes of the cloud, and crashes in the middle of a sweep; and in
    the end, with nobody there, all that nothing names is gone.
    """

    async def main():
        cloud = Cloud()
        for what, which in steps:
            await cloud.step(what, which)
        cloud.disk = cloud.disk.crash()
        cloud.start()
        await cloud.orphans.look()
        cloud.wall += GRACE_S
        await cloud.orphans.look()
        assert set(cloud.artifacts.digests()) == cloud.names & cloud.needed.keys()
        assert {key for key, _ in cloud.disk.store("orphans").scan()} == set()

    asyncio.run(main())


def test_a_restart_does_not_begin_the_time_anew_and_a_clock_put_back_gives_more():
    """A cloud that is restarted each day sweeps all the same."""
    due, orphans = judge({"a": 0, "b": 3}, {"b"}, {"a": Orphan(0.0)}, 150.0, GRACE_S)
    assert (due, orphans) == (["a"], {"a": Orphan(0.0)})
    due, orphans = judge({"a": 0}, set(), {"a": Orphan(500.0)}, 150.0, GRACE_S)
    assert (due, orphans) == ([], {"a": Orphan(150.0)})
    due, orphans = judge({"a": 1}, set(), {"a": Orphan(0.0)}, 150.0, GRACE_S)
    assert (due, orphans["a"].since) == ([], 150.0)


def test_all_that_a_job_has_is_named():
    """Its bundle, what it began with, its checkpoints, the optimiser's state, changes; nothing once it is forgotten."""
    state = State()
    state.apply(facts.JobCreated("j", "bundle", b"", start="start"), 1)
    fact = facts.JobAdvanced("j", 1, "weights", served="served", older=("old",), memory="memory", counted="counted")
    state.apply(fact, 2)
    assert set(named(state)) - {""} == {"bundle", "start", "weights", "served", "old", "memory", "counted"}
    state.apply(facts.JobForgotten("j"), 3)
    assert set(named(state)) == set()


def test_a_removed_job_leaves_its_name_and_after_a_while_nothing_else():
    """A running one is not removed; what another job began with stays; the next of that name gets another."""

    async def scenario(rig):
        north = await Region(rig, "ab").join()
        digest = await rig.operator.upload(bundle(rounds=1))
        first = (await rig.operator.ask("train.run", bundle=digest))["job"]
        with pytest.raises(Conflict, match="stop it first"):
            await rig.operator.ask("train.remove", job=first)
        await north.round(first, 1)
        jobs = rig.cloud.writer.state.jobs
        await until(lambda: jobs[first].ended)
        second = (await rig.operator.ask("train.run", bundle=digest, start=first))["job"]
        await north.round(second, 1)
        await until(lambda: jobs[second].ended)
        weights = jobs[first].weights, jobs[second].weights
        await rig.operator.ask("train.remove", job=first)
        assert [row["job"] for row in await rig.operator.ask("train.status")] == [second]
        assert rig.cloud.training.curves.rounds(first) == []
        await asyncio.sleep(60)
        held = rig.cloud.artifacts
        assert [held.has(one) for one in (*weights, digest)] == [True] * 3  # the second began with the first one's
        await rig.operator.ask("train.remove", job=second)
        await asyncio.sleep(60)
        assert [held.has(one) for one in (*weights, digest)] == [False] * 3
        await rig.cloud.signing.renew()
        again = await rig.operator.ask("train.run", bundle=await rig.operator.upload(bundle(rounds=1)))
        assert again["job"] == "job-3"

    simulate(scenario, orphan_grace_s=16.0)
