"""Models that a worker holds but not in its memory: who has them warm is asked first."""

from __future__ import annotations

import msgspec

from msrt.dispatch import ModelsReady, WorkerDown
from tests.runtime.dispatch.counter import Bench, echo, failed, question, ready
from tests.runtime.dispatch.test_mesh import sequence

COLD = msgspec.structs.replace(ready(), cold=True)


def house(**warm):
    """Workers by name, True for those that have the model warm."""
    bench = Bench(window=1)
    for worker, is_warm in warm.items():
        bench.up(worker, models=(ready() if is_warm else COLD,))
    return bench


def answered(bench, sends):
    for send in sends:
        bench.do(echo(send))


def test_who_has_the_model_warm_is_asked():
    """However many others could load it."""
    bench = house(a=False, b=True, c=False)
    for _ in range(30):
        sends = bench.ask(question(deadline=bench.now + 10))
        assert [send.worker for send in sends] == ["b"]
        answered(bench, sends)
    bench.end()


def test_with_nobody_warm_one_alone_loads_it():
    """Requests that come together do not make every worker load the model; once it is warm it goes on as usual."""
    bench = house(a=False, b=False, c=False)
    (first,) = bench.ask(question(), question(), question())
    bench.ask(question())
    assert {send.worker for send in bench.sent} == {first.worker}
    bench.do(ModelsReady(first.worker, (ready(),)))
    answered(bench, [first])
    while len(bench.replies) < 4:
        answered(bench, bench.until(bench.now + 0.01) or bench.sent[-1:])
    assert {send.worker for send in bench.sent} == {first.worker}
    bench.end()


def test_where_the_warm_ones_cannot_keep_up_a_cold_one_helps():
    """After a tenth of a second in the queue, not before."""
    bench = house(a=True, b=False)
    (first,) = bench.ask(question(deadline=30))
    bench.ask(question(deadline=30))
    assert bench.until(0.09) == []
    assert [send.worker for send in bench.until(0.12)] == ["b"]
    answered(bench, bench.sent)
    assert first.worker == "a"
    assert len(bench.replies) == 2
    bench.end()


def test_a_worker_that_loads_is_not_thought_to_be_stuck():
    """Seconds of silence are what loading takes; without a model to load the same silence is a stall."""
    bench = house(a=False, b=False)
    (send,) = bench.ask(question(deadline=30))
    assert bench.until(5.0) == []
    assert bench.dispatcher.counters.stalled == 0
    answered(bench, [send])
    slot = bench.dispatcher.roster.workers[send.worker].slots["m", 1]
    assert not slot.latency.known
    bench.end()


def test_a_cold_one_that_fails_or_dies_leaves_it_to_the_next():
    """The request is asked of another that has to load it."""
    bench = house(a=False, b=False, c=False)
    (first,) = bench.ask(question(deadline=30))
    bench.do(ModelsReady(first.worker, ()))
    (second,) = bench.do(failed(first, "unavailable")) or bench.until(bench.now + 0.2)
    assert second.worker != first.worker
    (third,) = bench.do(WorkerDown(second.worker)) or bench.until(bench.now + 0.2)
    assert third.worker not in {first.worker, second.worker}
    answered(bench, [third])
    assert len(bench.replies) == 1
    bench.end()


def test_a_sequence_begins_where_the_model_is_warm():
    """It stays there for long."""
    bench = house(a=False, b=True)
    (send,) = bench.ask(sequence("s", start=True))
    assert send.worker == "b"
    answered(bench, [send])
    bench.end()


def test_a_device_that_lost_a_sequence_says_so_and_is_not_asked_again():
    """The typed error goes to the caller, nobody is blamed, and the sequence is forgotten here too."""
    bench = house(a=True)
    answered(bench, bench.ask(sequence("s", start=True)))
    (step,) = bench.ask(sequence("s"))
    bench.do(failed(step, "sequence_lost"))
    assert bench.rejects[-1].error.code == "sequence_lost"
    assert bench.ask(sequence("s")) == []
    assert bench.rejects[-1].error.code == "sequence_lost"
    assert len(bench.ask(question())) == 1
    answered(bench, bench.sent[-1:])
    bench.end()


def test_a_step_of_which_nobody_knows_whether_it_was_taken_ends_its_sequence():
    """Its deadline passed while it was with the worker: the next step must not go on as if nothing had been."""
    bench = house(a=True)
    answered(bench, bench.ask(sequence("s", start=True)))
    bench.ask(sequence("s", deadline=bench.now + 0.05))
    bench.until(bench.now + 0.1)
    assert bench.rejects[-1].error.code == "deadline_exceeded"
    bench.ask(sequence("s"))
    assert bench.rejects[-1].error.code == "sequence_lost"
