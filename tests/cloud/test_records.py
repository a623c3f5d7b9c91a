"""What a coordinator remembers of a job's nodes: over a death at any point of a round."""

from __future__ import annotations

import asyncio

import pytest

from msrt.learning.history import UNKNOWN
from msrt.learning.notes import Note
from msrt.world.memory import MemoryDisk
from msrt_cloud.records import Draw, Records


async def inline(fn, *args):
    return fn(*args)


def opened(disk, settled=0):
    """A coordinator that starts when the journal knows so many rounds."""
    records = Records(disk.store("nodes"), inline, "job")
    asyncio.run(records.resume(settled))
    return records


def play(records, number, included, asked=()):
    """A round up to what is on disk before the journal speaks of it."""
    notes = {node: Note(float(number), 0.5, 1.0) for node in included}
    rows = records.history.after(number, asked, included, notes)
    asyncio.run(records.add(rows))
    return rows


def test_a_round_that_the_journal_does_not_know_is_as_if_it_never_was():
    """Its rows are on disk, but those of before are in force; once it is known they are."""
    disk = MemoryDisk()
    records = opened(disk)
    records.history.settle(play(records, 1, {"a": 3, "b": 4}, asked=("c",)))
    play(records, 2, {"a": 9, "c": 1})
    again = opened(disk, settled=1)
    assert repr(again.history.seen) == repr(records.history.seen)  # a loss that nobody told is NaN
    assert again.history.shares({"c": 2}) == records.history.shares({"c": 2})
    after = opened(disk, settled=2).history
    assert (after.seen["a"].samples, after.seen["a"].loss) == (9, 2.0)
    assert after.seen["b"] == records.history.seen["b"]
    assert after.shares({"a": 9}).before == 9 + 4 + 1
    assert after.seen["c"].counted == 2


def test_who_did_not_answer_keeps_what_was_known_and_loses_trust():
    """Asked and silent; never asked is another thing."""
    records = opened(MemoryDisk())
    records.history.settle(play(records, 1, {"a": 3}, asked=("a", "b")))
    records.history.settle(play(records, 2, {}, asked=("a",)))
    a, b = records.history.seen["a"], records.history.seen["b"]
    assert (a.asked, a.counted, a.samples, a.loss) == (2, 1, 3, 1.0)
    assert a.reliability == pytest.approx(0.8)
    assert (b.asked, b.counted, b.samples) == (1, 0, 0)
    assert "c" not in records.history.seen
    assert UNKNOWN.reliability == 1.0


def test_the_draw_of_an_open_round_outlives_its_coordinator():
    """Until the round was given up."""
    disk = MemoryDisk()
    records = opened(disk)
    draw = Draw(3, {"a": 7, "b": 9}, 12)
    asyncio.run(records.draw(draw))
    assert opened(disk, 2).drawn(3) == draw
    assert opened(disk, 2).drawn(4) is None
    asyncio.run(records.redraw())
    assert opened(disk, 2).drawn(3) is None


def test_a_job_that_is_over_leaves_nothing():
    """And what other jobs know stays."""
    disk = MemoryDisk()
    records, other = opened(disk), Records(disk.store("nodes"), inline, "job-2")
    play(records, 1, {"a": 1})
    play(other, 1, {"a": 1})
    asyncio.run(records.forget())
    assert [key for key, _ in disk.store("nodes").scan()] == ["job-2/node/a"]
