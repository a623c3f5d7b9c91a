"""Every push counts once and every job comes to its end, whatever is lost, repeated, reordered or killed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.learning.parameter_server import Mode
from tests.runtime.learning.parameter_server.field import Field, terms

MODES = st.one_of(
    st.just((Mode.SYNC, 0)), st.just((Mode.ASYNC, 0)), st.integers(0, 3).map(lambda s: (Mode.SSP, s))
)  # fmt: skip
SEEDS = st.integers(0, 2**32)


def play(field, steps, fates):
    """Random deliveries, with the chance of each kind of fate at each of them."""
    chance = field.random.random
    for _ in range(steps):
        field.deliver()
        if chance() < 0.1:
            field.tick(0.3)
        worker, server = (field.random.choice(list(table)) for table in (field.workers, field.servers))
        if chance() < fates.get("kill", 0):
            field.kill(worker)
        if chance() < fates.get("restart", 0):
            field.begin(worker)
        if chance() < fates.get("save", 0):
            field.save(server)
        if chance() < fates.get("server", 0):
            field.restart(server)
        check_once(field)


def check_once(field):
    """No payload is in a shard twice."""
    for server in field.servers.values():
        for shard, names in server.inside.items():
            assert len(names) == len(set(names)), f"shard {shard} has one twice: {names}"
            clocks = [tuple(name.split("/")[:2]) for name in names]
            assert len(clocks) == len(set(clocks)), f"shard {shard} has a clock twice: {names}"


def come_to_an_end(field, seconds=200):
    """With a good network and everybody alive the job is over for all of them."""
    field.rate = 0.0
    for worker, exchange in field.workers.items():
        if exchange is None:
            field.begin(worker)
    for _ in range(int(seconds / 0.25)):
        for _ in range(len(field.bag)):
            field.deliver()
        field.tick(0.25)
        check_once(field)
        if field.over >= set(field.workers):
            return
    pytest.fail(f"not over after {seconds} s: {field.clock}, {[s.machine.progress for s in field.servers.values()]}")


@settings(max_examples=60)
@given(MODES, SEEDS, st.integers(1, 3), st.integers(1, 4))
def test_a_network_that_loses_and_repeats_costs_nothing(mode, seed, servers, workers):
    """Once each, and to the end."""
    field = Field(terms(*mode), servers, workers, seed, rate=0.15)
    play(field, 300, {})
    come_to_an_end(field)


@settings(max_examples=60)
@given(MODES, SEEDS, st.integers(1, 3), st.integers(1, 4))
def test_killed_workers_hold_nobody_and_count_once_over_their_lives(mode, seed, servers, workers):
    """A life's late words do not count for the next one's."""
    field = Field(terms(*mode), servers, workers, seed, rate=0.1)
    play(field, 400, {"kill": 0.01, "restart": 0.02})
    come_to_an_end(field)


@settings(max_examples=60)
@given(MODES, SEEDS, st.integers(1, 3), st.integers(1, 4))
def test_a_server_that_comes_back_from_its_disk_counts_nothing_twice(mode, seed, servers, workers):
    """What was acknowledged after the last snapshot is lost with it, and never in it twice."""
    field = Field(terms(*mode), servers, workers, seed, rate=0.1)
    play(field, 400, {"kill": 0.005, "restart": 0.02, "save": 0.02, "server": 0.01})
    come_to_an_end(field)


@settings(max_examples=60)
@given(st.integers(0, 4), SEEDS, st.integers(1, 3), st.integers(2, 5))
def test_nobody_works_beyond_the_bound_over_several_servers(staleness, seed, servers, workers):
    """What a server lets on is at most s clocks ahead of the slowest that it counts on."""
    field = Field(terms(Mode.SSP, staleness, rounds=3), servers, workers, seed, rate=0.1)
    seen = []
    field.saw = lambda server, worker, clock, lowest: seen.append(clock - lowest)
    play(field, 500, {})
    come_to_an_end(field)
    assert max(seen) <= staleness


@settings(max_examples=30)
@given(SEEDS, st.integers(1, 3), st.integers(1, 4))
def test_synchronous_steps_are_whole_without_deaths(seed, servers, workers):
    """Every shard has the same pushes: each worker's of each clock."""
    field = Field(terms(least=workers), servers, workers, seed, rate=0.15)
    play(field, 300, {})
    come_to_an_end(field)
    expected = {(f"w{at}", str(clock)) for at in range(workers) for clock in range(8)}
    for server in field.servers.values():
        for names in server.inside.values():
            assert {tuple(name.split("/")[:2]) for name in names} == expected
        assert server.rounds == [1, 2]
