"""Which device should hold which version, and who answers for it: decided purely."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from msrt.dispatch.events import VersionTable
from msrt.inference.bundle import MEASURE, Stage, read_manifest
from msrt.journal.facts import ModelPushed, RolloutSet
from msrt.journal.state import State
from msrt.protocol.messages import DeviceReport, ModelState
from msrt_edge.placement import Device, Measured, place, version_table, wanted_digests
from tests.edge.rig import pushed

CAMERA = Device("n1", "north", "pi", {"site": "roof", "name": "cam", "region": "north", "class": "pi"})
BOTH = {"fp32": b"a" * 10, "int8": b"b" * 3}


def told(*entries):
    """The state after these entries, and the manifests in it."""
    state, manifests = State(), {}
    for offset, entry in enumerate(entries, 1):
        state.apply(entry, offset)
        if isinstance(entry, ModelPushed):
            manifests[entry.model, entry.version] = read_manifest(entry.manifest)
    return state, manifests


def held(rollout, device=CAMERA, measured=None, **files):
    """(version, serve) that a device should hold, both versions being there."""
    state, manifests = told(pushed(1), pushed(2), rollout)
    return [(p.version, p.serve) for p in place(state, manifests, measured or Measured(), device)]


@pytest.mark.parametrize(
    ("rollout", "versions"),
    [
        (RolloutSet("net", 2), [(2, True)]),
        (RolloutSet("net", 2, 1), [(2, True)]),
        (RolloutSet("net", 2, 1, selector="site=roof"), [(2, True)]),
        (RolloutSet("net", 2, 1, selector="site=cellar"), []),
        (RolloutSet("net", 2, 1, state="rolled_back"), [(1, True)]),
        (RolloutSet("net", 2, state="rolled_back"), []),
        (RolloutSet("net", 2, 1, canary="north", state="canary"), [(2, True), (1, False)]),
        (RolloutSet("net", 2, canary="north", state="canary"), [(2, True)]),
        (RolloutSet("net", 2, 1, canary="south", state="canary"), [(1, True)]),
        (RolloutSet("net", 2, canary="south", state="canary"), []),
        (RolloutSet("net", 2, 1, canary="south", state="live"), [(2, True)]),
    ],
)
def test_a_device_holds_what_its_rollout_says(rollout, versions):
    """A canary holds both versions, that it can go back between two requests; others hold one."""
    assert held(rollout) == versions


def test_models_are_placed_in_the_order_of_their_names():
    """The same state gives the same assignment, whatever came first."""
    entries = [pushed(1, "b"), RolloutSet("b", 1), pushed(1, "a"), RolloutSet("a", 1)]
    state, manifests = told(*entries)
    assert [p.model for p in place(state, manifests, Measured(), CAMERA)] == ["a", "b"]


@pytest.mark.parametrize(
    ("rollouts", "model"),
    [
        ([RolloutSet("a", 1, began=1.0), RolloutSet("b", 1, began=2.0)], "b"),
        ([RolloutSet("a", 1, began=2.0), RolloutSet("b", 1, began=1.0)], "a"),
        ([RolloutSet("a", 1, wall=9.0, began=1.0), RolloutSet("b", 1, wall=2.0, began=2.0)], "b"),
        ([RolloutSet("a", 1, selector="class=mcu", began=1.0), RolloutSet("b", 1, began=2.0)], "a"),
        ([RolloutSet("a", 1, began=1.0), RolloutSet("b", 1, state="rolled_back", began=2.0)], "a"),
        ([RolloutSet("a", 1, began=1.0), RolloutSet("b", 1, state="withdrawn", began=2.0)], "a"),
        ([RolloutSet("a", 1, began=1.0), RolloutSet("b", 1, canary="south", state="canary", began=2.0)], "a"),
        ([RolloutSet("a", 1, began=1.0), RolloutSet("none", 1, selector="class=mcu", began=2.0)], "a"),
    ],
)
def test_a_microcontroller_holds_one_model(rollouts, model):
    """Of the rollout that names its devices, else of the newest; a model that no board runs takes nobody's place."""
    files = {"fp32": b"f", "micro": b"m"}
    models = [pushed(1, "a", files), pushed(1, "b", files), pushed(1, "none")]
    board = Device("n2", "north", "mcu", {"name": "board", "region": "north", "class": "mcu"})
    state, manifests = told(*models, *rollouts)
    assert [(p.model, p.variant) for p in place(state, manifests, Measured(), board)] == [(model, "micro")]
    others = place(*told(*models, *(RolloutSet(name, 1) for name in ("a", "b"))), Measured(), CAMERA)
    assert [p.model for p in others] == ["a", "b"], "a device with memory holds both"


def test_a_version_without_a_checked_manifest_is_not_placed():
    """Nobody runs what the cloud did not sign, or what was never pushed."""
    state, manifests = told(pushed(1), RolloutSet("net", 1), RolloutSet("ghost", 3))
    assert place(state, {}, Measured(), CAMERA) == ()
    assert [p.model for p in place(state, manifests, Measured(), CAMERA)] == ["net"]


def report(**latency_us):
    return DeviceReport(1, (ModelState("net", 1, "int8", "ready", latency_us=latency_us),))


def variant(measured, node="n1", device_class="pi", **more):
    state, manifests = told(pushed(1, files=BOTH, **more), RolloutSet("net", 1))
    [placed] = place(state, manifests, measured, Device(node, "north", device_class, {}))
    return placed.variant


def test_the_faster_variant_is_for_all_of_the_class():
    """The first to measure decides, for others of its class only; it measures on, for it has both."""
    measured = Measured()
    assert variant(measured) == MEASURE
    assert measured.learn("n1", "pi", report(fp32=10, int8=30)) is True
    assert (variant(measured, "n2"), variant(measured, "n1"), variant(measured, "n3", "x86")) == (
        "fp32", MEASURE, MEASURE,
    )  # fmt: skip
    assert measured.learn("n2", "pi", report(fp32=30, int8=10)) is False, "the first one stands"
    assert variant(measured, "n4") == "fp32"


def test_one_measured_variant_decides_nothing():
    """There was nothing to compare it with."""
    measured = Measured()
    assert measured.learn("n1", "pi", report(fp32=10)) is False
    assert variant(measured, "n2") == MEASURE


def test_what_the_registry_requires_is_never_measured():
    """`--require int8` forces, and a class that is settled is settled."""
    measured = Measured()
    measured.learn("n1", "pi", report(fp32=10, int8=30))
    assert variant(measured, "n2", require="int8") == "int8"
    assert variant(measured, "n2", chosen={"pi": "int8"}) == "int8"


@pytest.mark.parametrize(
    ("rollout", "ready", "table"),
    [
        # nobody has anything, or only the new one: it is asked for
        (RolloutSet("net", 2), {}, (2, 0, "")),
        (RolloutSet("net", 2, 1), {"a": {2}, "b": {2}}, (2, 0, "")),
        # while it spreads, the old one answers, and who has the new one answers with that
        (RolloutSet("net", 2, 1), {}, (1, 2, "")),
        (RolloutSet("net", 2, 1), {"a": {1, 2}, "b": {1}}, (1, 2, "a")),
        (RolloutSet("net", 2, 2), {"a": {2}}, (2, 0, "")),
        (RolloutSet("net", 2, 1, state="rolled_back"), {"a": {1, 2}}, (1, 0, "")),
        (RolloutSet("net", 2, state="rolled_back"), {"a": {2}}, (0, 0, "")),
    ],
)
def test_who_answers_a_request_without_a_version(rollout, ready, table):
    """No request waits for a switch."""
    stable, candidate, workers = table
    found = version_table(rollout, {node: frozenset(versions) for node, versions in ready.items()})
    assert found == VersionTable("net", stable, candidate, workers=frozenset(workers))


def test_a_canary_by_traffic_is_drawn_by_request_not_by_device():
    """Every device of it holds both, serves its own sensors with the old one, and requests are divided by share."""
    rollout = RolloutSet("net", 2, 1, canary="100%", state="canary", traffic=0.1)
    both = {node: frozenset({1, 2}) for node in "ab"}
    assert version_table(rollout, both) == VersionTable("net", 1, 2, share=0.1)
    state, manifests = told(pushed(1), pushed(2), rollout)
    found = place(state, manifests, Measured(), CAMERA)
    assert [(one.version, one.serve) for one in found] == [(1, True), (2, False)]
    done = msgspec.structs.replace(rollout, state="live")
    assert version_table(done, both) == VersionTable("net", 2)


def test_every_version_that_a_rollout_names_is_fetched_ahead():
    """The present one and the one to go back to, each variant with its size; a version that is not named is not."""
    state, manifests = told(pushed(1), pushed(2, files=BOTH), pushed(3), RolloutSet("net", 2, 1))
    sizes = sorted(size for _, size in wanted_digests(state, manifests))
    assert sizes == [3, len(b"net1"), 10]
    assert list(wanted_digests(state, {})) == []


def test_graphs_around_a_model_are_fetched_ahead_as_well():
    """They are files of the version as its variants are."""
    state, manifests = told(pushed(1), RolloutSet("net", 1))
    manifests["net", 1] = msgspec.structs.replace(manifests["net", 1], pre=Stage("p" * 64, 5), post=Stage("q" * 64, 6))
    assert {("p" * 64, 5), ("q" * 64, 6)} < set(wanted_digests(state, manifests))


def test_what_is_said_of_a_region_stands_over_what_is_said_of_the_tree():
    """Another version, or none; until that ends, in whatever order the scopes come."""
    tree, mine = RolloutSet("net", 1), RolloutSet("net", 2, region="north")
    for entries in ((tree, mine), (mine, tree)):
        state, manifests = told(pushed(1), pushed(2), *entries)
        assert [p.version for p in place(state, manifests, Measured(), CAMERA)] == [2]
        assert len(list(wanted_digests(state, manifests, "north"))) == 1
    elsewhere = Device("n2", "south", "pi", {})
    assert [p.version for p in place(state, manifests, Measured(), elsewhere)] == [1]
    state.apply(RolloutSet("net", 2, state="withdrawn", region="north"), 9)
    assert place(state, manifests, Measured(), CAMERA) == ()
    state.apply(RolloutSet("net", 2, state="ended", region="north"), 10)
    assert [p.version for p in place(state, manifests, Measured(), CAMERA)] == [1]
    assert state.from_snapshot(state.snapshot()).regional == {}


def test_only_microcontrollers_get_the_blob_and_only_where_there_is_one():
    """Others never hear of it, and they choose among the variants that they run."""
    board = Device("n2", "north", "mcu", {"class": "mcu"})
    state, manifests = told(pushed(1, files=BOTH), RolloutSet("net", 1))
    assert place(state, manifests, Measured(), board) == ()
    state, manifests = told(pushed(1, files={**BOTH, "micro": b"c"}), RolloutSet("net", 1))
    assert [one.variant for one in place(state, manifests, Measured(), board)] == ["micro"]
    assert [one.variant for one in place(state, manifests, Measured(), CAMERA)] == [MEASURE]
    state, manifests = told(pushed(1, files={"int8": b"b", "micro": b"c"}), RolloutSet("net", 1))
    assert [one.variant for one in place(state, manifests, Measured(), CAMERA)] == ["int8"]


def test_a_version_that_nobody_vouched_for_leaves_the_one_before_in_service():
    """It may come later, or never."""
    state, manifests = told(pushed(1, files=BOTH), pushed(2, files=BOTH), RolloutSet("net", 2, previous=1))
    del manifests["net", 2]
    assert [p.version for p in place(state, manifests, Measured(), CAMERA)] == [1]


def test_a_model_whose_file_lies_at_its_home_is_placed_there_alone_and_prefetched_by_nobody():
    """Its layers are that device's own: another one of the same selector cannot have them."""
    state, manifests = told(pushed(1, home="n1"), RolloutSet("net", 1))
    assert [one.version for one in place(state, manifests, Measured(), CAMERA)] == [1]
    assert place(state, manifests, Measured(), dataclasses.replace(CAMERA, node="n2")) == ()
    assert list(wanted_digests(state, manifests)) == []
