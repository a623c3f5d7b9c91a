"""An edge's devices: who is here, what they are told to hold, what the cloud hears of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from msrt import errors
from msrt.journal.facts import ModelPushed, NodeLabelled, RolloutSet
from msrt.protocol import wire
from msrt.protocol.messages import Assign, FleetReport, ModelState
from msrt.serving.backend import InferRequest
from msrt_edge import fleet as room
from msrt_edge.placement import place
from msrt_edge.turns import AT_ONCE
from tests.edge.rig import identity, pushed, simulate, until


def test_a_device_that_joins_is_told_what_to_hold():
    """All that is rolled out and matches it, in one assignment."""

    async def scenario(rig):
        await rig.cloud.rollout(1)
        await rig.cloud.rollout(1, "other", selector="name=d1")
        await until(lambda: rig.d1.placed == [("net", 1, "fp32", True), ("other", 1, "fp32", True)])
        await until(lambda: rig.d2.placed == [("net", 1, "fp32", True)])
        await rig.reborn("d2")
        await until(lambda: rig.d2.placed == [("net", 1, "fp32", True)])

    simulate(scenario)


def test_nothing_is_said_where_nothing_changed():
    """A report, or a rollout of a model that is not its own, costs a device no assignment."""

    async def scenario(rig):
        await rig.serve()
        before = len(rig.d1.told(Assign))
        rig.d1.report(("net", 1))
        await rig.cloud.rollout(1, "other", selector="name=d2")
        await until(lambda: len(rig.d2.placed) == 2)
        assert len(rig.d1.told(Assign)) == before

    simulate(scenario)


def test_a_device_that_joins_costs_the_others_nothing(monkeypatch):
    """What is placed is placed for it alone: a region of thousands comes back at once."""

    async def scenario(rig):
        await rig.serve()
        placed = []
        monkeypatch.setattr(room, "place", lambda *given: placed.append(given[-1].node) or place(*given))
        await rig.reborn("d2")
        await until(lambda: rig.d2.placed == [("net", 1, "fp32", True)])
        assert set(placed) == {rig.d2.node}

    simulate(scenario)


def test_a_large_region_is_placed_over_many_turns(monkeypatch):
    """A few devices in each, and each once, however often something new is known meanwhile."""

    async def scenario(rig):
        await rig.serve()
        fleet = rig.edge.fleet
        one = fleet.devices[rig.d1.node]
        fleet.devices.update({f"clone{n}": replace(one) for n in range(2 * AT_ONCE)})
        placed = []
        monkeypatch.setattr(fleet, "assign_to", placed.append)
        fleet.assign()
        assert len(placed) == AT_ONCE
        fleet.assign()
        assert len(placed) == AT_ONCE
        await until(lambda: len(placed) == len(fleet.devices) + AT_ONCE)

    simulate(scenario)


def test_labels_of_the_journal_stand_over_the_devices_own():
    """A label that a device says of itself places a model, until the operator says otherwise."""

    async def scenario(rig):
        await rig.cloud.rollout(1, selector="site=roof")
        rig.d1.report(labels={"site": "roof"})
        await until(lambda: rig.d1.placed == [("net", 1, "fp32", True)])
        await rig.cloud.writer.append(NodeLabelled(rig.d1.node, {"site": "cellar"}))
        await until(lambda: rig.d1.placed == [])

    simulate(scenario)


def test_a_manifest_that_the_cloud_did_not_sign_is_never_placed():
    """It is refused, and said; other models of the same block go on."""

    async def scenario(rig):
        forged = pushed(1, "forged")
        bad = ModelPushed("forged", 1, forged.manifest, b"\0" * 64)
        await rig.cloud.writer.append(bad, RolloutSet("forged", 1), pushed(1), RolloutSet("net", 1))
        await until(lambda: rig.d1.placed == [("net", 1, "fp32", True)])
        assert ("forged", 1) not in rig.edge.fleet.manifests

    simulate(scenario)


def test_models_too_many_for_one_message_come_in_parts():
    """Of one generation, each within the link's limit; the last one says that it is."""

    async def scenario(rig):
        await rig.serve()
        for number in range(6):
            labels = tuple(f"{number}-{n}-{'x' * 90}" for n in range(1500))
            await rig.cloud.writer.append(pushed(1, f"wide{number}", labels=labels), RolloutSet(f"wide{number}", 1))
        await until(lambda: len(rig.d1.placed) == 7)
        told = rig.d1.told(Assign)
        parts = [one for one in told if one.generation == told[-1].generation]
        assert len(parts) > 1
        assert [one.more for one in parts] == [True] * (len(parts) - 1) + [False]
        assert max(len(wire.encode(one)[0]) for one in parts) < wire.HEADER_LIMIT
        await rig.cloud.rollout(2)
        await until(lambda: ("net", 2, "fp32", True) in rig.d1.placed and len(rig.d1.placed) == 7)

    simulate(scenario)


def test_the_first_device_of_a_class_measures_for_the_others():
    """What it found is what the next device of its class is given."""

    async def scenario(rig):
        await rig.cloud.rollout(1, files={"fp32": b"a", "int8": b"b"})
        await until(lambda: rig.d1.placed == rig.d2.placed == [("net", 1, "measure", True)])
        rig.d1.report(ModelState("net", 1, "int8", "ready", latency_us={"fp32": 900, "int8": 300}))
        await until(lambda: rig.d2.placed == [("net", 1, "int8", True)])
        assert rig.d1.placed == [("net", 1, "measure", True)], "what it found it keeps"

    simulate(scenario)


def test_a_silent_device_is_away_after_its_lease_and_here_again_when_it_speaks():
    """It stays in the list, marked, and the cloud hears of both."""

    async def scenario(rig):
        def alive():
            said = [record for report in rig.cloud.told(FleetReport) for record in report.devices]
            return {record.name: record.alive for record in said}

        await until(lambda: rig.cloud.told(FleetReport) and alive() == {"d1": True, "d2": True})
        rig.sim.partition("edge", "d1")
        await until(lambda: alive() == {"d1": False, "d2": True}, 10)
        assert list(rig.edge.device_peers()) == [rig.d2.node]
        rig.sim.heal()
        await until(lambda: alive() == {"d1": True, "d2": True})

    simulate(scenario)


def test_a_device_that_is_away_for_long_is_forgotten(monkeypatch):
    """The list does not grow with every device that ever was here."""
    monkeypatch.setattr(room, "FORGET_S", 5.0)

    async def scenario(rig):
        rig.sim.crash("d1")
        await until(lambda: not rig.seen("d1").alive)
        await until(lambda: rig.seen("d1") is None)
        assert rig.seen("d2").alive

    simulate(scenario)


def test_the_record_of_a_device_says_all_of_it():
    """Name, class, labels, models, link and numbers."""

    async def scenario(rig):
        await rig.serve("d1")
        record = rig.edge.fleet.record(rig.d1.node)
        assert (record.node, record.alive, record.device_class) == (rig.d1.node, True, "sim-1g")
        assert (record.link, record.models[0].version) == ("mem", 1)

    simulate(scenario)


def test_a_version_is_asked_for_by_number_or_as_it_is_rolled_out():
    """Unknown models and versions are errors that say what there is."""

    async def scenario(rig):
        fleet = rig.edge.fleet
        with pytest.raises(errors.NotFound, match="no model 'net'"):
            fleet.serving("net")
        await rig.serve("d1")
        await until(fleet.serving_versions)
        assert fleet.serving("net") == fleet.serving("net", 1) == 1
        with pytest.raises(errors.NotFound, match="no version 7"):
            fleet.serving("net", 7)
        assert fleet.metadata("net", 0).versions == (1,)
        assert fleet.ready_somewhere("net", 1)
        assert not fleet.ready_somewhere("net", 2)

    simulate(scenario)


def test_a_model_whose_manifest_was_refused_is_unavailable_not_a_crash():
    """It is rolled out, and nothing here can check a request for it."""

    async def scenario(rig):
        await rig.cloud.writer.append(ModelPushed("net", 1, b"junk", b"\0" * 64), RolloutSet("net", 1))
        await until(rig.edge.fleet.serving_versions)
        with pytest.raises(errors.Unavailable, match="not here yet"):
            rig.edge.fleet.metadata("net", 0)
        with pytest.raises(errors.Unavailable, match="not here yet"):
            rig.edge.fleet.validate("net", 0, (), ())

    simulate(scenario)


def test_a_step_of_a_sequence_is_lost_where_nothing_is_here_yet():
    """Whoever kept it was here before a restart; a sequence that begins may be asked again, a step may not."""

    async def scenario(rig):
        await rig.cloud.writer.append(ModelPushed("net", 1, b"junk", b"\0" * 64), RolloutSet("net", 1))
        await until(rig.edge.fleet.serving_versions)
        for start, error in ((True, errors.Unavailable), (False, errors.SequenceLost)):
            with pytest.raises(error, match="not here yet"):
                rig.edge.requests.infer(InferRequest("net", (), (), 1.0, sequence="s", sequence_start=start))

    simulate(scenario)


def test_a_report_of_a_device_that_is_not_known_changes_nothing():
    """It may come late, from a session that is over."""

    async def scenario(rig):
        peer = rig.seen("d1").peer
        del rig.edge.fleet.devices[identity("d1").node]
        rig.d1.report(("net", 1))
        await asyncio.sleep(1)
        assert peer.live
        assert rig.seen("d1") is None

    simulate(scenario)


def test_a_model_that_is_withdrawn_here_is_let_go_and_not_found():
    """Devices are told to drop it, and a request hears that it is not here; a rollout brings it back."""

    async def scenario(rig):
        await rig.serve()
        assert rig.edge.fleet.serving("net") == 1
        await rig.cloud.writer.append(RolloutSet("net", 1, state="withdrawn", region="north"))
        await until(lambda: rig.d1.placed == [] and rig.d2.placed == [])
        with pytest.raises(errors.NotFound):
            rig.edge.fleet.serving("net")
        assert ("net", 0) not in rig.edge.dispatcher.roster.pools or not rig.edge.fleet.serving_versions()
        await rig.cloud.writer.append(RolloutSet("net", 1, state="ended", region="north"))
        await until(lambda: rig.d1.placed == [("net", 1, "fp32", True)])
        assert rig.edge.fleet.serving("net") == 1

    simulate(scenario)
