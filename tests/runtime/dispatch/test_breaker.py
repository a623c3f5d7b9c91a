"""The circuit breaker's table, and who is ejected for slowness."""

from __future__ import annotations

import random

import pytest

from msrt.dispatch import eject
from msrt.dispatch.breaker import BASE_S, JITTER, MAX_S, TRANSITIONS, Breaker, Circuit, Signal
from msrt.dispatch.config import Config
from msrt.dispatch.roster import Slot, Worker
from msrt.dispatch.sequences import Sequences
from tests.runtime.dispatch.counter import ready

RNG = random.Random(1)


def tripped(now=0.0):
    breaker = Breaker()
    for _ in range(5):
        breaker.failure(now, RNG)
    return breaker


def slots(*seconds, answers=20):
    """One slot a worker, each of that usual time."""
    made = []
    for number, each in enumerate(seconds):
        slot = Slot(Worker(f"w{number}", 1 << 20), ready(), Config())
        for _ in range(answers):
            slot.latency.add(each, 1.0)
        made.append(slot)
    return made


def test_the_table_is_whole():
    """Every state knows every signal."""
    assert set(TRANSITIONS) == {(circuit, signal) for circuit in Circuit for signal in Signal}


def test_five_failures_in_a_row_open_it_and_one_success_between_does_not():
    """A streak counts; scattered failures do not."""
    breaker = Breaker()
    for _ in range(20):
        for _ in range(3):
            breaker.failure(0.0, RNG)
        for _ in range(7):
            breaker.success()
    assert breaker.circuit is Circuit.CLOSED
    assert tripped().circuit is Circuit.OPEN


def test_half_of_all_failing_opens_it():
    """Also without a streak."""
    breaker = Breaker()
    for _ in range(40):
        breaker.failure(0.0, RNG)
        breaker.failure(0.0, RNG)
        breaker.success()
    assert breaker.trips >= 1


def test_after_its_rest_one_batch_decides():
    """A success closes it, a failure opens it for longer."""
    good, bad = tripped(), tripped()
    for breaker in (good, bad):
        assert not breaker.rested(BASE_S * (1 - JITTER) - 0.01)
        assert breaker.rested(BASE_S * (1 + JITTER))
    good.success()
    assert good.circuit is Circuit.CLOSED
    bad.failure(2.0, RNG)
    assert bad.circuit is Circuit.OPEN
    assert bad.until - 2.0 > BASE_S * (1 + JITTER)


def test_the_rest_doubles_is_jittered_and_bounded():
    """Two that were ejected together do not come back together; nobody is away for ever."""
    one, other = tripped(), tripped()
    assert one.until != other.until
    now = 0.0
    for _ in range(30):
        now = one.until
        one.rested(now)
        one.failure(now, RNG)
    assert one.until - now <= MAX_S * (1 + JITTER)


def test_the_odd_one_is_found_and_few_are_none():
    """Ten times the median is odd; of two nobody can tell; a slow half is just how these workers are."""
    config = Config()
    assert [slot.worker.node for slot in eject.slow_ones(slots(0.01, 0.01, 0.01, 0.1), 1.0, config)] == ["w3"]
    assert eject.slow_ones(slots(0.01, 0.1), 1.0, config) == []
    assert eject.slow_ones(slots(0.01, 0.01, 0.1, 0.1), 1.0, config) == []
    assert eject.slow_ones(slots(0.0001, 0.0001, 0.0001, 0.001), 1.0, config) == []


def test_never_more_than_the_share_is_out():
    """One of three at the default share, and never the only one."""
    config = Config()
    some = slots(*[0.01] * 9)
    assert eject.may_eject(some, config) == 3
    some[0].breaker.trip(0.0, RNG)
    assert eject.may_eject(some, config) == 2
    assert eject.may_eject(slots(0.01), config) == 0


def test_with_half_of_them_gone_there_is_panic():
    """Then the ejected get work again: fewer hands would fail more."""
    some = slots(*[0.01] * 4)
    for slot in some[:2]:
        slot.worker.suspect = True
    assert not eject.panics(some, Config())
    some[2].breaker.trip(0.0, RNG)
    assert eject.panics(some, Config())


def test_sequences_are_bounded_in_number_and_idle_time():
    """A full book takes no more; who is not used leaves."""
    book = Sequences(2, 10.0)
    assert book.bind("m", "a", "w1", 1, 0.0)
    assert book.bind("m", "b", "w2", 1, 1.0)
    assert not book.bind("m", "c", "w1", 1, 2.0)
    assert book.place("m", "a", 9.0) == ("w1", 1)
    assert book.place("m", "b", 12.0) is None
    assert book.bind("m", "c", "w1", 1, 12.0)
    assert sorted(book.lost("w1")) == [("m", "a"), ("m", "c")]
    assert len(book) == 0


@pytest.mark.parametrize("model", ["m", "n"])
def test_a_sequence_belongs_to_its_model(model):
    """The same name under another model is another sequence."""
    book = Sequences(10, 10.0)
    book.bind("m", "a", "w1", 1, 0.0)
    assert (book.place(model, "a", 1.0) is not None) is (model == "m")
