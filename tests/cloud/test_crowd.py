"""The index of living devices: whatever edges say in whatever order, it holds what a look at everybody would find."""

from __future__ import annotations

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.learning.selection import Wanted, select
from msrt.protocol.messages import DeviceRecord, FleetReport
from msrt_cloud.crowd import FEW, Crowd
from msrt_cloud.fleet import EdgeSeen, Fleet
from tests.cloud.rig import device

SELECTORS = ("", "site=a", "region=north", "site=b,region=south", "tier=device")
EDGES = {"e1": "north", "e2": "south"}


@cache
def _record(name, site, alive):
    return device(name, site=site, alive=alive)


def record(name, site, alive):
    """Made once: keys take a while."""
    return _record(name, site, alive)


RECORDS = st.builds(record, st.sampled_from("abcdefgh"), st.sampled_from("ab"), st.booleans())
SAID = st.lists(RECORDS, max_size=6, unique_by=lambda one: one.node)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["all", "some"]), st.sampled_from([*EDGES]), SAID),
        st.tuples(st.sampled_from(["left", "back", "removed"]), st.sampled_from([*EDGES]), st.just([])),
        st.tuples(st.just("draw"), st.just(""), st.just([])),
    ),
    max_size=25,
)  # fmt: skip


def looked(fleet, selector):
    """Names of all that live and match, by going through everybody."""
    pairs = [part.split("=") for part in selector.split(",") if part]
    found = []
    for name in "abcdefgh":
        edge = fleet.home(_record(name, "a", True).node)
        if edge is None:
            continue
        one = edge.devices[_record(name, "a", True).node]
        labels = {"tier": "device", **one.labels, "region": edge.region}
        if all(labels[key] == value for key, value in pairs):
            found.append((one.name, one.node))
    return [node for _, node in sorted(found)]


def play(fleet, step):
    what, edge, records = step
    if what == "all":
        fleet.report(edge, FleetReport({}, tuple(records)))
    elif what == "some":
        fleet.report(edge, FleetReport({}, tuple(records), last=False))
    elif what == "left":
        fleet.left(edge, 1.0)
    elif what == "removed":
        fleet.removed(edge)
    elif what == "back":
        fleet.edges.setdefault(edge, EdgeSeen(edge, edge, EDGES[edge]))
        fleet.joined(_peer(edge), 2.0)


def _peer(edge):
    from types import SimpleNamespace  # noqa: PLC0415 - beside its use

    return SimpleNamespace(node=edge, certificate=SimpleNamespace(name=edge, region=EDGES[edge]), address=None)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_the_index_is_what_a_look_at_everybody_finds(steps):
    """Reports, whole or of changes; edges that leave, come back and are removed; devices that move between them."""
    fleet = Fleet()
    for edge in EDGES:
        play(fleet, ("back", edge, []))
    for step in steps:
        play(fleet, step)
        if step[0] == "draw":
            for selector in SELECTORS:
                assert list(fleet.crowd(selector)) == looked(fleet, selector)
    for selector in SELECTORS:
        crowd, wanted = fleet.crowd(selector), looked(fleet, selector)
        assert (list(crowd), len(crowd)) == (wanted, len(wanted))
        assert [seen.device.node for seen in fleet.matching(selector)] == wanted
        drawn = crowd.pool().draw({}, Wanted(count=2), "job", 3)
        assert list(drawn) == select(wanted, {}, Wanted(count=2), "job", 3)
        assert all(wanted[place] == node for node, place in drawn.items())


def test_a_draw_is_the_same_whether_changes_came_one_by_one_or_at_once():
    """Few are put in their places, many have it sorted anew; the keys that lots are drawn by go along."""
    names = {f"n{number:03}": f"name{number * 7 % 300:03}" for number in range(300)}
    slow, quick = Crowd(names.get, ()), Crowd(names.get, names)
    for node in names:
        slow.touch([node])
        slow.settle()
    quick.settle()
    assert len(names) > FEW
    assert list(slow) == list(quick)
    wanted = Wanted(count=40)
    assert slow.pool().draw({}, wanted, "job", 1) == quick.pool().draw({}, wanted, "job", 1)
    gone = [*names][:5]
    before = quick.pool()
    for node in gone:
        del names[node]
    quick.touch(gone)
    quick.settle()
    assert len(before.draw({}, Wanted(count=300), "job", 1)) == 300  # a draw under way sees what it began with
    assert not set(gone) & quick.pool().draw({}, wanted, "job", 1).keys()


def test_who_may_not_be_asked_is_not_drawn_and_keeps_its_place():
    """Places are among all that are here, so that a node's index is the same in every round."""
    names = {f"n{number:02}": f"n{number:02}" for number in range(20)}
    crowd = Crowd(names.get, names)
    crowd.settle()
    without = {"n03", "n07", "away"}
    drawn = crowd.pool(without).draw({}, Wanted(count=30), "job", 1)
    assert drawn.keys() == names.keys() - without
    assert all(names[node] == f"n{place:02}" for node, place in drawn.items())
    some = crowd.pool(without).draw({}, Wanted("available", count=5), "job", 1)
    assert len(some) == 5
    assert not without & some.keys()


def test_records_are_of_where_a_device_lives():
    """Its newest report, or nothing."""
    fleet = Fleet()
    play(fleet, ("back", "e1", []))
    play(fleet, ("all", "e1", [device("a"), device("b", alive=False)]))
    found = fleet.record(device("a").node)
    assert isinstance(found, DeviceRecord)
    assert found.name == "a"
    assert fleet.record(device("b").node) is None
