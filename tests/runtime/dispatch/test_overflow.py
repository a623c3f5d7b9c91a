"""Where a request goes that its region cannot answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from msrt.dispatch.overflow import HOPS, Path, choose


def path(name, round_trip=0.01, queue=0.0):
    one = Path(name, name)
    for _ in range(60):
        one.answered(round_trip + queue, 0.0, queue)
    return one


def pick(paths, **more):
    found = choose(paths, "net", **{"hops": 0, "asker": "", "left_s": 1.0, "now": 0.0, **more})
    return found.name if found else None


def test_the_cheapest_way_is_taken():
    """Its round trip and what requests last waited there count together."""
    near_full, far_idle, near = path("full", 0.002, 0.2), path("far", 0.05), path("near", 0.003)
    assert pick([near_full, far_idle, near]) == "near"
    assert pick([near_full, far_idle]) == "far"


def test_a_way_that_was_never_gone_is_tried():
    """Before a slow one that is known."""
    assert pick([path("slow", 0.1), Path("new", "new")]) == "new"


def test_a_way_that_cannot_make_the_deadline_is_none():
    """Rather here, and at once."""
    assert pick([path("far", 0.3)], left_s=0.2) is None


def test_who_refused_is_left_alone_for_this_model():
    """As long as it said; for one that lacks the model longer; other models may still go."""
    one = path("a")
    one.refused("net", "overloaded", 2.5, 0.0)
    assert pick([one], now=2.4) is None
    assert pick([one], now=2.6) == "a"
    one.refused("net", "not_found", 0.0, 10.0)
    assert pick([one], now=19.0) is None
    assert choose([one], "other", hops=0, asker="", left_s=1.0, now=10.0) is one


@given(st.integers(2, 5), st.data())
def test_no_request_goes_in_circles(count, data):
    """However nodes choose and refuse, it visits each at most once, and is passed on at most so often."""
    names = [f"n{number}" for number in range(count)]
    paths = {name: [Path(other, other) for other in names if other != name] for name in names}
    for ways in paths.values():
        for way in ways:
            way.round_trip_s = data.draw(st.floats(0.001, 0.05))
    at, asker, visited = names[0], "", [names[0]]
    for hops in range(10):
        found = choose(paths[at], "net", hops=hops, asker=asker, left_s=1.0, now=0.0)
        if found is None:
            break
        asker, at = at, found.name
        visited.append(at)
    assert len(visited) <= HOPS + 1
    assert len(set(visited)) == len(visited)
