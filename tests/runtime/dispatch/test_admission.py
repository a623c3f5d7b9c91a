"""Who may wait, for how long, and what they are told."""

from __future__ import annotations

import math

import pytest

from msrt.dispatch import VersionTable, WorkerDown
from msrt.errors import Overloaded
from tests.runtime.dispatch.counter import Bench, echo, question


def test_a_full_queue_says_when_to_come_back():
    """Over max_items the newest is Overloaded, with a wait that follows the measured rate."""
    bench = Bench("a", max_items=10, window=1, max_batch_rows=1)
    (send,) = bench.ask(question(deadline=500))
    for step in range(40):
        bench.until(step * 0.1)
        bench.ask(question(deadline=500))
        (send,) = bench.do(echo(send)) or bench.ask(question(deadline=500))
    bench.ask(*(question(deadline=500) for _ in range(10)))
    bench.ask(question())
    error = bench.rejects[-1].error
    assert isinstance(error, Overloaded)
    assert error.retry_after == pytest.approx(1.0, rel=0.3)


def test_bytes_are_bounded_as_well():
    """A few large requests fill the queue like many small ones."""
    bench = Bench("a", max_bytes=100, window=1)
    bench.ask(question())
    bench.ask(question(tuple(range(20))))
    bench.ask(question(tuple(range(20))))
    assert [reject.error.code for reject in bench.rejects] == ["overloaded"]


def test_who_waited_too_long_is_turned_away():
    """The queue's age is bounded even when deadlines are far."""
    bench = Bench("a", window=1, max_age_s=2.0, stall_first_s=60, stall_floor_s=60)
    bench.ask(question(deadline=100))
    bench.ask(question(deadline=100))
    bench.until(1.9)
    assert not bench.rejects
    bench.until(2.1)
    assert bench.rejects[0].error.code == "overloaded"


def test_without_a_ready_worker_requests_wait_a_little_and_then_fail():
    """A worker that comes in time gets them; else they are Unavailable."""
    bench = Bench(empty_s=1.0)
    bench.ask(question((1,)))
    bench.until(0.9)
    bench.up("a")
    assert len(bench.sent) == 1
    bench.do(echo(bench.sent[0]))
    bench.do(WorkerDown("a"))
    bench.ask(question((2,)))
    bench.until(2.0)
    assert bench.rejects[0].error.code == "unavailable"
    bench.end()


@pytest.mark.parametrize(("model", "version"), [("other", 0), ("m", 7), ("m", -1)])
def test_an_unknown_model_or_version_is_not_found(model, version):
    """Nobody is to serve it: the caller is told at once. Version -1 is not a way to the canary."""
    bench = Bench("a")
    bench.do(VersionTable("m", 1, 1, share=0.5))
    bench.ask(question(model=model, version=version))
    assert bench.rejects[0].error.code == "not_found"


@pytest.mark.parametrize("deadline", [0.0, -1.0, math.nan])
def test_an_expired_request_is_never_sent(deadline):
    """Neither at submission nor, below, after waiting."""
    bench = Bench("a")
    assert bench.ask(question(deadline=deadline)) == []
    assert bench.rejects[0].error.code == "deadline_exceeded"


def test_a_request_that_expires_in_the_queue_is_not_sent():
    """It fails at its deadline, and the place it would have had goes to the next."""
    bench = Bench("a", window=1)
    (send,) = bench.ask(question((1,)))
    bench.ask(question((2,), deadline=0.1))
    bench.ask(question((3,)))
    bench.until(0.1)
    assert bench.rejects[0].error.code == "deadline_exceeded"
    (again,) = bench.do(echo(send))
    assert again.frames[0] == (3).to_bytes(4, "little")


def test_a_request_in_flight_fails_at_its_deadline_and_is_recalled():
    """The caller hears at the deadline, not after; the worker is told that nobody waits."""
    bench = Bench("a", stall_floor_s=60, stall_first_s=60)
    bench.ask(question(deadline=1.5))
    bench.until(1.49)
    assert not bench.rejects
    bench.until(1.5)
    assert bench.rejects[0].error.code == "deadline_exceeded"
    assert bench.recalls[0].worker == "a"
    bench.end()


def test_an_endless_deadline_is_shortened():
    """Every wait has a deadline, also one that asks for none."""
    bench = Bench("a", max_deadline_s=30)
    bench.ask(question(deadline=math.inf))
    assert bench.submitted[0].deadline == 30
    bench.end()
