"""Trees under virtual time: fate's hand, and the same run again from the same seed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import time

import pytest
import structlog

from msrt.errors import NotFound
from msrt.links.memory import public_key
from msrt.world.faults import KINDS, play, random_schedule
from msrt.world.loop import Deadlock, Livelock, OutOfTime
from msrt.world.network import Faults
from msrt.world.simulation import WALL_START, Simulation, seeds
from tests.runtime.world.pingpong import Child, Parent

SECRET = bytes(range(32))
CHILDREN = ["c1", "c2", "c3"]


def tree(sim):
    sim.add("p", Parent, SECRET)
    for name in CHILDREN:
        sim.add(name, Child, ("p", public_key(SECRET)))


def stormy(seed):
    """One ping-pong tree through one random schedule; returns its log."""
    with Simulation(seed) as sim:
        tree(sim)
        schedule = random_schedule(sim.rng, ["p", *CHILDREN], 15.0)

        async def scenario():
            await play(sim, schedule)
            before = {name: sim.node(name).pongs for name in CHILDREN}
            await asyncio.sleep(5)
            for name in CHILDREN:
                assert sim.node(name).pongs > before[name], f"{name} is cut off"

        sim.run(scenario(), until=60)
        return sim.log_bytes()


def test_twenty_seeds_twice_are_the_same_byte_for_byte():
    """Every seed replays exactly, different seeds differ, and everyone talks again after the storm."""
    logs = [stormy(seed) for seed in seeds(20)]
    assert logs == [stormy(seed) for seed in seeds(20)]
    assert len(set(logs)) == len(logs)
    assert min(map(len, logs)) > 1000


def test_the_hash_seed_changes_nothing():
    """A run is the same in another process with another order of sets."""
    code = (
        "import hashlib; from tests.runtime.world.test_simulation import stormy; "
        "print(hashlib.sha256(stormy(3)).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": str(n)}, capture_output=True, check=True
        ).stdout
        for n in (1, 2)
    }
    assert found == {hashlib.sha256(stormy(3)).hexdigest().encode() + b"\n"}


def test_an_hour_takes_no_time():
    """Sleeping costs nothing, and the clocks agree."""
    with Simulation(1) as sim:
        world = sim.world("a")

        async def scenario():
            await asyncio.sleep(3600)
            return world.now(), world.wall() - WALL_START

        started = time.perf_counter()
        assert sim.run(scenario()) == (3600, 3600)
        assert time.perf_counter() - started < 1


def test_timers_of_one_moment_fire_in_order():
    """Equal times are served first come, first served."""
    seen = []
    with Simulation(1) as sim:

        async def scenario():
            for number in range(50):
                sim.loop.call_at(1.0, seen.append, number)
            await asyncio.sleep(1)

        sim.run(scenario())
    assert seen == list(range(50))


def test_waiting_for_nothing_is_a_deadlock():
    """When nobody is scheduled and the scenario is not done, it says so at once, with the line to replay it."""
    with Simulation(42) as sim:

        async def scenario():
            await asyncio.sleep(1)
            await asyncio.Event().wait()

        with pytest.raises(Deadlock, match=r"at 1\.000000 s") as caught:
            sim.run(scenario(), until=60)
    assert any("MSRT_SEED=42" in note for note in caught.value.__notes__)


def test_time_that_stands_still_is_a_livelock():
    """A callback that schedules itself for now, for ever, is found and named instead of hanging the test."""
    with Simulation(1) as sim:

        def busy():
            sim.loop.call_soon(busy)

        async def scenario():
            busy()
            await asyncio.sleep(1)

        with pytest.raises(Livelock, match="busy"):
            sim.run(scenario(), until=60)


def test_a_timer_for_now_fires_a_moment_later():
    """Code that waits for a deadline by the clock gets past it, however the sums are rounded."""
    with Simulation(1) as sim:
        world = sim.world("a")

        async def scenario():
            began = world.now()
            while not world.now() - began > 0.1:  # noqa: ASYNC110 - this is the loop under test
                await asyncio.sleep(max(1e-12, began + 0.1 - world.now()))
            assert world.now() < 0.1001

        sim.run(scenario())


def test_time_has_a_limit():
    """A tree that only beats its hearts is stopped at the limit."""
    with Simulation(1) as sim:
        tree(sim)

        async def scenario():
            await asyncio.Event().wait()

        with pytest.raises(OutOfTime, match="10 s"):
            sim.run(scenario(), until=10)
        assert sim.now == 10


def test_a_failing_node_fails_the_run():
    """What a node's `run` raises comes out of `Simulation.run`, naming the node and the seed."""

    class Bad:
        def __init__(self, world, config):
            pass

        async def run(self):
            await asyncio.sleep(1)
            raise ZeroDivisionError

    with Simulation(9) as sim:
        sim.add("bad", Bad)
        with pytest.raises(ZeroDivisionError) as caught:
            sim.run(asyncio.sleep(100))
    assert any("node bad" in note for note in caught.value.__notes__)
    assert any("MSRT_SEED=9" in note for note in caught.value.__notes__)


def test_a_failing_callback_fails_the_run():
    """An exception in a timer of a node is not swallowed."""

    class Bad:
        def __init__(self, world, config):
            asyncio.get_running_loop().call_later(1, lambda: 1 // 0)

        async def run(self):
            await asyncio.sleep(100)

    with Simulation(9) as sim:
        sim.add("bad", Bad)
        with pytest.raises(ZeroDivisionError):
            sim.run(asyncio.sleep(100))


class Counter:
    """Counts in memory, by timers and in a task, and on disk; its cleanup tries to speak."""

    def __init__(self, world, config):
        self.world, self.heard = world, config
        self.store = world.disk.store("n")
        self.ticks = 0

    def tick(self):
        self.heard.append(("tick", self.world.now()))
        asyncio.get_running_loop().call_later(1, self.tick)

    async def run(self):
        asyncio.get_running_loop().call_later(0.5, self.tick)
        try:
            while True:
                await asyncio.sleep(1)
                self.ticks += 1
                self.store.append("n", b"committed")
                self.store.commit()
                self.store.append("n", b"buffered")
        finally:
            structlog.get_logger().info("counter.cleanup")
            self.store.commit()
            self.world.disk.store("n").commit()
            await asyncio.sleep(5)


def test_a_crash_is_abrupt():
    """A killed node's tasks and timers end, its cleanup is mute; its disk keeps what was committed."""
    heard = []
    with Simulation(1) as sim:
        sim.add("n", Counter, heard)

        async def scenario():
            await asyncio.sleep(2.7)
            sim.crash("n")
            assert (sim.alive("n"), sim.node("n")) == (False, None)
            await asyncio.sleep(10)
            assert [at for _, at in heard] == [0.5, 1.5, 2.5]
            sim.restart("n")
            await asyncio.sleep(0.1)
            assert [record for _, record in sim.world("n").disk.store("n").read("n")] == [
                b"committed",
                b"buffered",
                b"committed",
            ]
            await asyncio.sleep(1)
            assert sim.node("n").ticks == 1

        sim.run(scenario())
        assert b"cleanup" not in sim.log_bytes()


def test_a_stopped_node_waits():
    """Timers that became due while it was stopped fire when it goes on, in order, not one is lost."""
    heard = []
    with Simulation(1) as sim:
        sim.add("n", Counter, heard)

        async def scenario():
            await asyncio.sleep(1.2)
            sim.stop("n")
            await asyncio.sleep(5)
            assert len(heard) == 1
            sim.cont("n")
            await asyncio.sleep(0.1)
            assert [round(at, 3) for _, at in heard] == [0.5, 6.2]
            assert sim.node("n").ticks == 2
            sim.stop("n")
            sim.crash("n")
            await asyncio.sleep(10)
            assert len(heard) == 2

        sim.run(scenario())


def test_a_timer_cancelled_while_held_stays_cancelled():
    """A node that goes on and at once cancels a timer that fell due in its sleep never sees it fire."""

    class Sleeper:
        def __init__(self, world, config):
            self.fired = []

        async def run(self):
            loop = asyncio.get_running_loop()
            late = loop.call_later(2, self.fired.append, "late")
            loop.call_later(1, late.cancel)
            await asyncio.sleep(100)

    with Simulation(1) as sim:
        sim.add("n", Sleeper)

        async def scenario():
            await asyncio.sleep(0.5)
            sim.stop("n")
            await asyncio.sleep(5)
            sim.cont("n")
            await asyncio.sleep(5)
            assert sim.node("n").fired == []

        sim.run(scenario())


def test_offload_leaves_room_for_others():
    """Offloaded work finishes within milliseconds, before or after others had their turn, and brings its error."""
    with Simulation(1) as sim:
        world = sim.world("a")

        async def one(turns):
            turn = len(turns)
            await world.offload(turns.append, turn)
            return turn

        async def scenario():
            turns = []
            await asyncio.gather(*(one(turns) for _ in range(20)))
            assert turns != sorted(turns)
            assert world.now() < 0.01
            with pytest.raises(ZeroDivisionError):
                await world.offload(lambda: 1 // 0)

        sim.run(scenario())


def test_threads_are_refused():
    """Nobody reaches a thread in virtual time but through World.offload."""
    with Simulation(1) as sim:
        sim.world("a")

        async def scenario():
            with pytest.raises(RuntimeError, match=r"World\.offload"):
                await asyncio.get_running_loop().run_in_executor(None, print)

        sim.run(scenario())


def test_what_nodes_log_is_in_the_event_log():
    """Structlog events of nodes are lines of the log, with virtual time and name; printing is as before afterwards."""
    before = structlog.get_config()
    with Simulation(1) as sim:
        tree(sim)
        sim.run(asyncio.sleep(2))
        sim.record("test.mark", some="words here", number=1.5)
        text = sim.log_bytes().decode()
    assert " c1 child.connected\n" in text
    assert "2.000000 - test.mark number=1.5 some='words here'\n" in text
    assert structlog.get_config() == before


def test_each_life_draws_its_own_numbers():
    """Keys and ids come from seed, name and life: the same in every run, another in every node and life."""

    def draws(seed):
        with Simulation(seed) as sim:
            first, other = sim.world("a").random.random(), sim.world("b").random.random()
            sim.crash("a")
            sim.restart("a")
            return first, other, sim.world("a").random.random()

    assert draws(1) == draws(1)
    assert len(set(draws(1) + draws(2))) == 6


def test_an_unknown_node_is_named():
    """Asking for a node that is not there says so; an unknown kind names what is missing."""
    with Simulation(1) as sim:
        with pytest.raises(NotFound, match="no node x"):
            sim.crash("x")
        with pytest.raises(NotFound, match="no kind of node"):
            sim.add("x", "no-such-kind")


def test_schedules_end_in_time_and_use_every_kind():
    """Random schedules keep to their duration and to the nodes they may strike."""
    with Simulation(5) as sim:
        faults = [fault for _ in range(200) for fault in random_schedule(sim.rng, ["a", "b", "c"], 30, mortal=["b"])]
    assert {fault.kind for fault in faults} == set(KINDS)
    assert all(0 <= fault.at <= fault.at + fault.lasts <= 30 + 1e-9 for fault in faults)
    assert all(fault.nodes == ("b",) for fault in faults if fault.kind in {"crash", "stop", "disk_full"})


def test_one_seed_can_be_named(monkeypatch):
    """The variable in the hint is the one that tests take their seeds from."""
    assert seeds(3) == [0, 1, 2]
    monkeypatch.setenv("MSRT_SEED", "77")
    assert seeds(3) == [77]


def test_two_thousand_nodes():
    """A crowd in one process: 2,000 children of one parent, five seconds, bad weather."""
    started = time.perf_counter()
    with Simulation(1, Faults(loss=0.02, jitter=0.01)) as sim:
        sim.add("p", Parent, SECRET)
        for number in range(2000):
            sim.add(f"c{number}", Child, ("p", public_key(SECRET)))
        sim.run(asyncio.sleep(5))
        assert sum(len(node.seen) for node in [sim.node("p")]) == 2000
        assert sum(sim.node(f"c{number}").pongs for number in range(2000)) > 14_000
    assert time.perf_counter() - started < 30
