"""What speaks for and against a canary, from the counts of edges; and what a rollout makes of it."""

from __future__ import annotations

import timeit

import pytest

from msrt.dispatch.sequential import Finding
from msrt.protocol.messages import DeviceRecord, ModelState, ServedRow
from msrt.serving.tally import bucket_of
from msrt_cloud.evidence import Bounds, Evidence
from msrt_cloud.rollout import Pace, Rollout, Seen, Stage


def row(version, answered=0, slow=0, faults=0, **more):
    """Answers of 1 ms, some of 10 ms."""
    latency = {bucket_of(1000): answered - slow, bucket_of(10_000): slow}
    return ServedRow("net", version, answered, faults=faults, latency={k: n for k, n in latency.items() if n}, **more)


def evidence(*looks, shadowed=False):
    """After each of these totals of the one edge: (stable, canary), or a dict of edges to such."""
    one = Evidence(2, 1, Bounds())
    for look in looks:
        edges = look if isinstance(look, dict) else {"n": look}
        one.look({node: {r.version: r for r in rows} for node, rows in edges.items()}, shadowed=shadowed)
    return one


START = (row(1, 5000, 100), row(2, 0))
MARKED = (row(1, 6000, 130), row(2, 100, 2))


def test_a_good_canary_is_found_good():
    """As few errors and slow answers as the stable version."""
    one = evidence(START, MARKED, (row(1, 16_000, 330), row(2, 1500, 33)))
    assert one.finding is Finding.GOOD
    assert one.requests == 1500
    assert one.stable_requests == 11_000


@pytest.mark.parametrize(
    ("canary", "what"),
    [(row(2, 90, 2, faults=30), "errors"), (row(2, 400, 200), "slow answers")],
    ids=["errors", "slowness"],
)
def test_what_is_worse_is_found_bad_and_named(canary, what):
    """More errors, or more slow answers: each alone is enough, and the sentence says which and how many."""
    one = evidence(START, (row(1, 6000, 130), row(2, 0)), (row(1, 16_000, 330), canary))
    assert one.finding is Finding.BAD
    assert one.against().startswith(what)
    assert "stable version" in one.against()


def test_disagreement_counts_where_the_canary_is_the_shadow():
    """Otherwise nobody compares answers, and nothing waits for it."""
    last = (row(1, 16_000, 330), row(2, 1500, 33, judged=200, disagreed=150))
    assert evidence(START, MARKED, last).finding is Finding.GOOD
    assert evidence(START, MARKED, last, shadowed=True).finding is Finding.BAD
    alike = (row(1, 16_000, 330), row(2, 1500, 33, judged=200, disagreed=2))
    assert evidence(START, MARKED, alike, shadowed=True).finding is Finding.GOOD
    unseen = (row(1, 16_000, 330), row(2, 1500, 33))
    assert evidence(START, MARKED, unseen, shadowed=True).finding is Finding.OPEN


def test_what_was_before_the_canary_does_not_count():
    """A version that was bad last week is judged by what it does now, also at an edge that comes later."""
    before = (row(1, 5000, 100), row(2, 1000, 900, faults=900))
    one = evidence(before, before)
    assert one.requests == 0
    one = evidence(before, {"n": before, "s": before}, {"n": before, "s": before})
    assert one.requests == 0


def test_an_edge_that_is_away_changes_nothing():
    """Its last word stays; when it is back its counts go on."""
    both = {"n": MARKED, "s": MARKED}
    one = evidence({"n": START, "s": START}, both)
    seen = one.requests
    one.look({"n": {r.version: r for r in MARKED}, "s": {r.version: r for r in MARKED}})
    assert one.requests == seen == 200


def test_requests_that_devices_could_not_answer_are_tries():
    """A canary whose every request fails is bad though nobody was answered by it."""
    one = evidence(START, (row(1, 6000, 130), row(2, 0, faults=20)))
    assert one.finding is Finding.BAD
    assert one.judgements[0].compared.of == 20


def test_looking_again_at_a_hundred_edges_costs_little():
    """One looks four times a second, and a loop may not be held."""
    one = Evidence(2, 1, Bounds())
    edges = {f"n{number}": {r.version: r for r in MARKED} for number in range(100)}
    one.look(edges)
    assert min(timeit.repeat(lambda: one.look(edges), number=1, repeat=20)) < 0.004


# --- in a rollout ----------------------------------------------------------------------------------------


def seen(state="ready", **more):
    models = (ModelState("net", 2, "fp32", state, **more),) if state else ()
    return [Seen("north", DeviceRecord("a", "a", True, "x86", {}, models))]


def canary(one, traffic=0.05, **pace):
    return Rollout(
        "net", 2, "100%", Stage.CANARY, pace=Pace(window_s=5.0, **pace), now=0.0, evidence=one, traffic=traffic
    )  # fmt: skip


GOOD = (START, MARKED, (row(1, 16_000, 330), row(2, 1500, 33)))
BAD = (START, (row(1, 6000, 130), row(2, 0, faults=20)))


def test_a_canary_by_traffic_goes_on_when_its_requests_say_so():
    """Ready and healthy for the window, and found good: not before both."""
    one = canary(evidence(*GOOD))
    assert one.observe(seen(), 1.0) is None
    decision = one.observe(seen(), 6.1)
    assert decision.stage is Stage.LIVE
    assert "errors 0.00% of 1500" in decision.reason
    waits = canary(evidence(START))
    assert waits.observe(seen(), 1.0) is None
    assert waits.observe(seen(), 60.0) is None


@pytest.mark.parametrize("traffic", [0.05, 0.0])
def test_any_canary_goes_back_when_its_requests_say_so(traffic):
    """By share of the traffic or by devices; the reason names what was worse."""
    decision = canary(evidence(*BAD), traffic).observe(seen(), 1.0)
    assert decision.stage is Stage.ROLLED_BACK
    assert "errors 100.00% of 20" in decision.reason


def test_a_version_that_does_not_load_needs_no_requests():
    """It goes back before any traffic, however good the old counts."""
    decision = canary(evidence(*GOOD)).observe(seen("failed", error="bad graph"), 1.0)
    assert decision.stage is Stage.ROLLED_BACK
    assert "bad graph" in decision.reason


def test_a_few_failures_of_a_canary_by_traffic_are_weighed_not_counted():
    """Three in a row are no verdict beside a stable version that fails as often."""
    both = (START, (row(1, 6000, 130, faults=900), row(2, 20, faults=3)))
    assert canary(evidence(*both)).observe(seen(requests=20, failures=3), 1.0) is None


def test_undecided_for_too_long_is_said_and_goes_back():
    """A bounded time; then what serves goes on serving, unless the setting says otherwise."""
    one = canary(evidence(START), evidence_s=100.0)
    one.observe(seen(), 1.0)
    assert one.observe(seen(), 99.0) is None
    decision = one.observe(seen(), 100.5)
    assert decision.stage is Stage.ROLLED_BACK
    assert decision.reason.startswith("undecided after 100 s")
    other = canary(evidence(START), evidence_s=100.0, undecided="promote")
    other.observe(seen(), 1.0)
    decision = other.observe(seen(), 100.5)
    assert decision.stage is Stage.LIVE
    assert "undecided" in decision.reason


def test_a_canary_by_traffic_whose_devices_are_away_is_not_promoted_untried():
    """Silence proves nothing, however long: it ends undecided."""
    one = canary(evidence(START), evidence_s=1000.0)
    one.observe(seen(), 1.0)
    assert one.observe([], 900.0) is None
    assert one.observe([], 1001.0).stage is Stage.ROLLED_BACK
