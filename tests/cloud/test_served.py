"""How models are served, as edges tell it: counts over restarts, and what was lately."""

from __future__ import annotations

import pytest

from msrt.protocol.messages import ServedRow, ServingReport
from msrt.serving.tally import bucket_of
from msrt_cloud.served import MOST, Served, added, less, said


def row(version=1, answered=10, latency_us=3000, **more):
    return ServedRow("net", version, answered, latency={bucket_of(latency_us): answered}, **more)


def heard(*reports):
    """(when, boot, rows...) of the edge `n`."""
    served = Served()
    for when, boot, *rows in reports:
        served.report("n", ServingReport(boot, tuple(rows)), when)
    return served


def test_the_latest_word_holds():
    """Counts grow; they are not added up again."""
    served = heard((1.0, 7, row(answered=10)), (2.0, 7, row(answered=15), row(2, answered=1)))
    assert {v: one.answered for v, one in served.totals("net", 1, 2)["n"].items()} == {1: 15, 2: 1}


def test_what_an_edge_counted_before_its_restart_is_kept():
    """Another boot: its counts begin again, the sum does not."""
    served = heard((1.0, 7, row(answered=10)), (2.0, 8, row(answered=3)), (3.0, 8, row(answered=4)))
    assert served.totals("net", 1)["n"][1].answered == 14
    assert sum(served.totals("net", 1)["n"][1].latency.values()) == 14


def test_lately_is_what_the_last_seconds_brought():
    """A rate that falls to nothing when nothing comes any more."""
    served = heard(*((float(at), 7, row(answered=20 * at)) for at in range(1, 31, 2)))
    (_, total, lately, seconds) = next(served.lately(30.0))
    assert total.answered == 580
    assert lately.answered / seconds == pytest.approx(20, rel=0.2)
    (_, _, lately, _) = next(served.lately(90.0))
    assert lately.answered == 0


@pytest.mark.parametrize(
    "bad",
    [
        {"answered": -1},
        {"answered": 5, "hits": 9},
        {"judged": 1, "disagreed": 2},
        {"failed": {"x": -3}},
        {"latency": {100_000: 1}},
        {"latency": {3: -1}},
    ],
)
def test_counts_that_make_no_sense_are_not_taken(bad):
    """An edge that counts wrongly must not stop the judgement of rollouts."""
    served = Served()
    served.report("n", ServingReport(7, (ServedRow("net", 1, **bad),)), 1.0)
    assert served.totals("net", 1) == {}


def test_many_versions_are_bounded():
    """The one heard of longest ago goes first."""
    served = heard(*((float(v), 7, row(v)) for v in range(1, MOST + 10)))
    known = served.totals("net", *range(MOST + 10))["n"]
    assert len(known) == MOST
    assert 1 not in known


def test_sums_and_differences_agree():
    """What two edges have together, less one of them, is the other."""
    one, other = row(answered=4, failed={"a": 1}, faults=2), row(answered=6, failed={"a": 2, "b": 1}, rows=5)
    rest = less(added([one, other]), one)
    assert (rest.answered, rest.failed, rest.faults, rest.rows) == (6, {"a": 2, "b": 1}, 0, 5)


def test_what_is_not_known_is_not_said():
    """Without requests there are no times; without a cache no hit rate."""
    shown = said(ServedRow("net", 1))
    assert (shown["p50_ms"], shown["batch"], shown["cache_hits"], shown["error_share"]) == (None, None, None, None)
    shown = said(row(batches=5, rows=10, queue_us=5000, compute_us=10_000, hits=2, misses=6))
    assert (shown["batch"], shown["cache_hits"], shown["queue_ms"], shown["compute_ms"]) == (2.0, 0.25, 0.625, 1.25)
    assert shown["p99_ms"] == pytest.approx(3.0, rel=0.13)
