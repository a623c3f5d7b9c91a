"""Clocks of workers: the bound holds, and somebody may always go on."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from msrt.learning.parameter_server.clocks import Clocks, Mode

WORKERS = ["a", "b", "c", "d", "e"]
STEPS = st.lists(
    st.tuples(st.sampled_from(["push", "push", "push", "join", "leave"]), st.sampled_from(WORKERS)), max_size=120
)
BOUNDS = st.one_of(
    st.just((Mode.SYNC, 0, 0)), st.just((Mode.ASYNC, 0, 1)),
    st.integers(0, 5).flatmap(lambda s: st.tuples(st.just(Mode.SSP), st.just(s), st.integers(0, 1))),
)  # fmt: skip


@given(BOUNDS, STEPS)
def test_nobody_works_further_ahead_than_the_bound_whatever_comes_and_goes(bounds, steps):
    """At any moment who is let on is at most s clocks ahead of every other that is here."""
    clocks = Clocks(*bounds)
    let_on: dict[str, int] = {}
    for what, worker in steps:
        if what == "join":
            let_on.pop(worker, None)
            clocks.join(worker)
        elif what == "leave":
            let_on.pop(worker, None)
            clocks.leave(worker)
        elif worker in let_on:
            clocks.finish(worker, let_on.pop(worker))
        for other in clocks.done:
            if other not in let_on and clocks.may(other):
                let_on[other] = clocks.done[other]
        for clock in let_on.values():
            assert clock + clocks.ahead - clocks.lowest <= clocks.bound or clock == clocks.lowest


@given(BOUNDS, STEPS)
def test_somebody_may_always_go_on(bounds, steps):
    """No schedule of joins, pushes, leaves and deaths leaves everybody waiting."""
    clocks = Clocks(*bounds)
    for what, worker in steps:
        if what == "join":
            clocks.join(worker)
        elif what == "leave":
            clocks.leave(worker)
        elif clocks.done.get(worker) is not None and clocks.may(worker):
            clocks.finish(worker, clocks.done[worker])
        assert not clocks.done or any(map(clocks.may, clocks.done))


@given(BOUNDS, STEPS)
def test_clocks_only_grow(bounds, steps):
    """Of each worker and of the slowest: what is over does not come again, or a push might count twice."""
    clocks = Clocks(*bounds)
    ever: dict[str, int] = {}
    floor = 0
    for what, worker in steps:
        if what == "join":
            clocks.join(worker, ever.get(worker, 0))
        elif what == "leave":
            clocks.leave(worker)
        elif worker in clocks.done:
            clocks.finish(worker, clocks.done[worker])
        assert clocks.floor >= floor
        floor = clocks.floor
        for other, done in clocks.done.items():
            assert done >= ever.get(other, 0)
            assert done >= floor
            ever[other] = done


def test_modes_are_bounds():
    """Synchronous is a bound of 0, asynchronous none."""
    assert Clocks(Mode.SYNC, 7, 1).bound == 0
    assert Clocks(Mode.SYNC, 7, 1).ahead == 0
    assert Clocks(Mode.SSP, 7).bound == 7
    assert Clocks(Mode.ASYNC).bound == math.inf


def test_a_newcomer_enters_at_the_lowest_clock():
    """Nobody waits for what it has not done."""
    clocks = Clocks(Mode.SSP, 3)
    for worker, at in (("a", 10), ("b", 8)):
        clocks.join(worker, at)
    assert clocks.join("c") == 10  # b came when a was at 10 already
    clocks.finish("a", 10)
    assert clocks.join("d") == 10


def test_who_leaves_holds_nobody():
    """A dead worker's clock is dropped."""
    clocks = Clocks(Mode.SYNC)
    clocks.join("a")
    clocks.join("b")
    clocks.finish("a", 0)
    assert not clocks.may("a")
    clocks.leave("b")
    assert clocks.may("a")
