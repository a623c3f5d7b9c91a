"""What is written down of choices, refusals and outcomes."""

from __future__ import annotations

import msgspec
import pytest

from msrt.dispatch import WorkerDown
from msrt.dispatch.decisions import Decision, Entry, Outcome, Refusal
from msrt.dispatch.events import Record
from tests.runtime.dispatch.counter import Bench, echo, failed, question, ready
from tests.runtime.dispatch.test_mesh import taught


class Recorded(Bench):
    """A bench that keeps the record."""

    def __init__(self, *workers, share=1.0, **settings) -> None:
        self.entries: list[Entry] = []
        super().__init__(*workers, record_share=share, **settings)
        handle = self.dispatcher.handle

        def keep(event, now):
            actions = handle(event, now)
            self.entries += [action.entry for action in actions if isinstance(action, Record)]
            return actions

        self.dispatcher.handle = keep

    def of(self, kind):
        return [entry for entry in self.entries if isinstance(entry, kind)]


def test_a_choice_is_written_down_with_all_who_might_have_had_it():
    """The state before it was made: nobody has anything in flight yet; and what came of it has the same id."""
    bench = Recorded("a", "b", "c")
    (send,) = bench.ask(question((1, 2)))
    (seen,) = bench.of(Decision)
    assert (seen.reason, seen.chosen, seen.requests, seen.rows) == ("choice", send.worker, 1, 2)
    assert seen.candidates[0].worker == send.worker
    assert {one.worker: (one.rows, one.batches, one.open) for one in seen.candidates} == dict.fromkeys(
        "abc", (0, 0, True)
    )
    bench.until(0.02)
    bench.do(echo(send))
    (came,) = bench.of(Outcome)
    assert (came.id, came.worker, came.code, came.seconds) == (seen.id, send.worker, "ok", pytest.approx(0.02))


def test_a_retry_names_who_had_it_before():
    """And the first try's outcome is its error."""
    bench = Recorded("a", "b")
    (send,) = bench.ask(question())
    (again,) = bench.do(failed(send, "model_failed"))
    first, second = bench.of(Decision)
    assert (second.reason, second.chosen, second.tried) == ("retry", again.worker, (send.worker,))
    assert [(one.id, one.code) for one in bench.of(Outcome)] == [(first.id, "model_failed")]


def test_a_hedge_is_a_reason_of_its_own():
    """Asked of a second worker while the first still has it."""
    bench = taught(Recorded("a", "b"), times=160)
    (send,) = bench.ask(question((7,), deadline=bench.now + 30))
    (again,) = bench.until(bench.now + 0.14)
    seen = bench.of(Decision)[-1]
    assert (seen.reason, seen.chosen, seen.tried) == ("hedge", again.worker, (send.worker,))


def test_work_of_a_worker_that_went_away_has_an_outcome():
    """Nothing that was drawn stays without one."""
    bench = Recorded("a")
    bench.ask(question())
    bench.do(WorkerDown("a"))
    assert [entry.code for entry in bench.of(Outcome)] == ["disconnected"]


def test_a_refusal_says_what_was_expected():
    """20 ms each, a hundred ahead, 30 ms of time: with the estimate that spoke against it."""
    bench = taught(Recorded("a", "b", models=(ready(batch=False),)))
    bench.ask(*[question(deadline=bench.now + 30) for _ in range(100)])
    bench.ask(question(deadline=bench.now + 0.03))
    seen = bench.of(Refusal)[-1]
    assert (seen.reason, seen.left_s) == ("hopeless", pytest.approx(0.03))
    assert seen.need_s > 0.5
    assert bench.dispatcher.counters.refused == {"hopeless": 1}


def test_refusals_are_counted_by_reason():
    """With or without a record."""
    bench = Bench("a", max_items=1, models=(ready(batch=False),), window=1, max_window=1)
    bench.ask(question(), question(), question())
    bench.ask(question(deadline=-1.0), question(model="nobody"))
    found = bench.dispatcher.counters.refused
    assert found.pop("queue_full") >= 1
    assert found == {"deadline_exceeded": 1, "not_found": 1}
    bench.until(400.0)
    assert sum(bench.dispatcher.counters.given_up.values()) >= 1


def test_nothing_is_written_down_unless_asked_for():
    """And then the share that was asked for, about."""
    for share, least, most in ((0.0, 0, 0), (0.25, 60, 140)):
        bench = Recorded("a", "b", share=share)
        for _ in range(400):
            (send,) = bench.ask(question(deadline=bench.now + 30))
            bench.do(echo(send))
        assert least <= len(bench.of(Decision)) <= most
        assert len(bench.of(Decision)) == len(bench.of(Outcome))


def test_entries_are_lines_that_can_be_read_back():
    """JSON with a kind, and the same thing again."""
    bench = Recorded("a", "b")
    (send,) = bench.ask(question())
    bench.do(echo(send))
    bench.ask(question(model="nobody"))
    for entry in bench.entries:
        assert msgspec.json.decode(msgspec.json.encode(entry), type=Entry) == entry
    assert {type(entry) for entry in bench.entries} == {Decision, Outcome, Refusal}
