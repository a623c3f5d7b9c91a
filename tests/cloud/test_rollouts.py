"""Rollouts against what edges report: on when healthy, back when not, and as the operator says."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest

from msrt import errors
from msrt.protocol.messages import DeviceRecord, ModelState
from tests.cloud.rig import device, simulate, until
from tests.runtime.hop.tree import identity
from tests.runtime.inference.micro.graphs import quantised
from tests.runtime.inference.models import mlp


class North:
    """One edge with devices whose model the test decides."""

    def __init__(self, rig, names="abcd"):
        self.rig, self.names = rig, names

    async def join(self, versions=2):
        self.edge = await self.rig.edge("edge-n", "north", *(device(name) for name in self.names))
        for seed in range(1, versions + 1):
            await self.rig.push(mlp(seed=seed))
        return self

    def have(self, version, state="ready", names=None):
        """These devices report that version; the others stay without."""
        names = self.names if names is None else names
        models = {name: [("net", version, state)] if name in names else [] for name in self.names}
        self.edge.report(*(device(name, *models[name]) for name in self.names))

    async def done(self, version=1):
        """That version went out everywhere."""
        await self.roll(version)
        self.have(version)
        await self.until("done")

    async def roll(self, version=0, **more):
        return await self.rig.operator.ask("model.rollout", model="net", version=version, **more)

    def status(self):
        return self.rig.cloud.rollouts.status("net")

    async def until(self, state):
        await until(lambda: self.status()["state"] == state)


def rolling(scenario, versions=2, **shape):
    async def run(rig):
        await scenario(await North(rig).join(versions))

    simulate(run, **shape)


def test_a_healthy_canary_goes_everywhere():
    """A share of the devices first, for the window; then all; then it is done. The devices do not all wait."""

    async def scenario(north):
        await north.done(1)
        begun = await north.roll(canary="50%")
        assert (begun["version"], begun["state"], begun["previous"], begun["matching"]) == (2, "canary", 1, 4)
        north.have(2)
        await north.until("live")
        assert north.rig.cloud.writer.state.rollouts["net"].version == 2
        await north.until("done")
        assert "healthy" in north.status()["reason"]

    rolling(scenario)


def test_a_window_of_its_own_is_kept():
    """What one rollout asks for is not the setting's and not the next one's."""

    async def scenario(north):
        now = north.rig.cloud.world.now
        begun = now()
        await north.roll(1, window_s=20.0)
        north.have(1)
        await north.until("done")
        assert now() - begun > 20
        begun = now()
        await north.done(2)
        assert now() - begun < 10

    rolling(scenario)


def test_a_version_that_does_not_load_is_rolled_back():
    """One device is enough; the reason names it, the journal says where to return to."""

    async def scenario(north):
        await north.done(1)
        await north.roll(2, canary="north")
        north.have(2, "failed", names="c")
        await north.until("rolled_back")
        fact = north.rig.cloud.writer.state.rollouts["net"]
        assert (fact.version, fact.previous) == (2, 1)
        assert fact.reason.startswith("c could not load it")

    rolling(scenario)


def test_a_version_whose_requests_fail_is_rolled_back():
    """It loaded and was ready; what counts is how it answers while it is watched."""

    async def scenario(north):
        await north.roll(1)
        state = ModelState("net", 1, "fp32", "ready", requests=50, failures=10)
        north.edge.report(DeviceRecord(identity("a").node, "a", True, "sim", {}, (state,)))
        await north.until("rolled_back")
        assert "failed 10 of 50" in north.status()["reason"]

    rolling(scenario, rollout_failures=0.1)


def test_devices_that_never_get_ready_do_not_hold_it_for_ever():
    """The wait has its deadline, and the reason says how many were missing."""

    async def scenario(north):
        await north.roll(1)
        north.have(1, names="abc")
        await north.until("rolled_back")
        assert "1 devices were not ready after 20 s" in north.status()["reason"]

    rolling(scenario)


def test_after_a_restart_the_watch_goes_on():
    """The journal holds the stage; the clocks begin again."""

    async def scenario(north):
        await north.done(1)
        await north.roll(2, canary="north")
        north.rig.sim.crash("cloud")
        north.rig.sim.restart("cloud")
        rig = north.rig
        await until(lambda: rig.cloud is not None and rig.cloud.ready.is_set() and rig.cloud.downlink.peers)
        await until(lambda: north.edge.peer is not None and north.edge.peer.live)
        assert north.status()["state"] == "canary"
        north.have(2)
        await north.until("done")

    rolling(scenario)


def test_a_canary_that_nobody_hears_of_is_not_healthy():
    """With its edge away it waits; what comes back broken is rolled back, as if nothing had been between."""

    async def scenario(north):
        await north.done(1)
        await north.roll(2, canary="north")
        north.rig.sim.partition("edge-n", "cloud")
        await until(lambda: not north.rig.cloud.fleet.matching(""))
        await asyncio.sleep(5)
        assert north.status()["state"] == "canary"
        north.rig.sim.heal()
        await until(lambda: north.edge.peer is not None and north.edge.peer.live)
        north.have(2, "failed", names="a")
        await north.until("rolled_back")

    rolling(scenario)


def test_the_operator_returns_to_the_version_before():
    """Once; then there is nothing more to return to."""

    async def scenario(north):
        ask = north.rig.operator.ask
        with pytest.raises(errors.NotFound):
            await ask("model.rollback", model="net")
        await north.done(1)
        with pytest.raises(errors.Conflict, match="the first one"):
            await ask("model.rollback", model="net")
        await north.done(2)
        assert await ask("model.rollback", model="net") == {"model": "net", "version": 1}
        with pytest.raises(errors.Conflict, match="rolled back already"):
            await ask("model.rollback", model="net")
        assert north.status()["reason"] == "by the operator"

    rolling(scenario)


def test_a_rollout_over_a_rolled_back_one_returns_to_what_served():
    """Version 3 after a bad 2 has 1 behind it, not 2."""

    async def scenario(north):
        await north.done(1)
        await north.roll(2, canary="north")
        north.have(2, "failed", names="a")
        await north.until("rolled_back")
        assert (await north.roll(3))["previous"] == 1
        assert (await north.roll(3))["previous"] == 1

    rolling(scenario, versions=3)


def test_with_nobody_there_it_is_recorded_for_those_who_come():
    """No canary to wait for; desired state stands, and whoever comes is watched: here it cannot load it."""

    async def scenario(rig):
        await rig.push(mlp())
        begun = await rig.operator.ask("model.rollout", model="net", canary="20%")
        assert (begun["state"], begun["matching"]) == ("live", 0)
        await asyncio.sleep(60)
        assert rig.cloud.rollouts.status("net")["state"] == "live"
        await rig.edge("edge-n", "north", device("a", ("net", 1, "failed")))
        await until(lambda: rig.cloud.rollouts.status("net")["state"] == "rolled_back")

    simulate(scenario)


def test_a_share_of_few_devices_is_at_least_one():
    """1% of four is one of them, always the same."""

    async def scenario(north):
        await north.roll(1, canary="1%")
        fact = north.rig.cloud.writer.state.rollouts["net"]
        assert fact.canary == f"node:{min(identity(name).node for name in 'abcd')}"

    rolling(scenario)


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"model": "cat"}, errors.NotFound),
        ({"version": 9}, errors.NotFound),
        ({"canary": "0%"}, errors.InvalidAddress),
        ({"canary": "south"}, errors.NotFound),
        ({"selector": "site=="}, errors.InvalidAddress),
    ],
)
def test_a_rollout_that_makes_no_sense_changes_nothing(params, error):
    """A typed error, and what served goes on serving."""

    async def scenario(north):
        await north.done(1)
        before = north.rig.cloud.writer.state.rollouts["net"]
        with pytest.raises(error):
            await north.rig.operator.ask("model.rollout", **{"model": "net", **params})
        assert north.rig.cloud.writer.state.rollouts["net"] == before

    rolling(scenario)


def test_the_operators_word_is_not_overwritten_by_the_watch():
    """A decision about version 2 that comes while version 3 is being written down is void."""

    async def scenario(north):
        await north.done(1)
        await north.roll(2, canary="north")
        rollouts, state = north.rig.cloud.rollouts, north.rig.cloud.writer.state
        north.have(2, "failed", names="a")
        fleet = north.rig.cloud.fleet
        await until(lambda: any(m.state == "failed" for seen in fleet.matching("") for m in seen.device.models))
        fact = state.rollouts["net"]
        assert fact.state == "canary"
        await asyncio.gather(rollouts.begin("net", 3, "", "", 0.0), rollouts._watch(fact))
        assert state.rollouts["net"].version == 3

    rolling(scenario, versions=3)


def test_a_rollback_on_a_full_disk_is_no_rollback():
    """The operator hears that nothing was written, and what served goes on."""

    async def scenario(north):
        await north.done(1)
        await north.done(2)
        north.rig.sim.disk_full("cloud")
        with pytest.raises(errors.DiskFull):
            await north.rig.operator.ask("model.rollback", model="net")
        assert north.rig.cloud.writer.state.rollouts["net"].state == "live"

    rolling(scenario)


def test_a_full_disk_holds_a_decision_back():
    """It is taken again when there is room; the watch lives."""

    async def scenario(north):
        await north.done(1)
        await north.roll(2, canary="north")
        north.rig.sim.disk_full("cloud")
        north.have(2, "failed", names="a")
        await asyncio.sleep(5)
        assert north.status()["state"] == "canary"
        north.rig.sim.disk_full("cloud", False)
        await north.until("rolled_back")

    rolling(scenario)


def test_microcontrollers_are_not_waited_for_where_they_cannot_run_it():
    """Of a model without a blob nothing is asked of them; for them alone a rollout is refused, saying why."""

    async def scenario(north):
        board = msgspec.structs.replace(device("board"), device_class="mcu", labels={"class": "mcu"})
        north.edge.report(device("a"), board)
        await until(lambda: len(north.rig.cloud.fleet.matching("")) == 2)
        with pytest.raises(errors.InvalidModel, match="no microcontroller runs it"):
            await north.roll(1, selector="class=mcu")
        await north.roll(1)
        north.edge.report(device("a", ("net", 1, "ready")), board)
        await north.until("done")
        assert north.status()["matching"] == 1

    rolling(scenario, versions=1)


def test_the_newer_of_two_models_has_the_boards_and_the_operator_hears_it(tmp_path):
    """A microcontroller holds one: the older rollout waits for it no more, and has it again with the newer withdrawn.
    What was rolled out to boards by name stays there."""
    file = quantised(mlp((4, 6, 3)), np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32), tmp_path)

    async def scenario(north):
        rig, board = north.rig, msgspec.structs.replace(device("board"), device_class="mcu")
        north.edge.report(device("a"), board)
        await until(lambda: len(rig.cloud.fleet.matching("")) == 2)
        for name in ("old", "new"):
            await rig.push(file, name=name)

        async def roll(model, **more):
            said = await rig.operator.ask("model.rollout", model=model, **more)
            return said["matching"], said["boards"]

        def matching(model):
            return rig.cloud.rollouts.status(model)["matching"]

        assert await roll("net") == (1, {"replaced": [], "kept": []})
        assert await roll("old") == (2, {"replaced": [], "kept": []})
        assert await roll("new") == (2, {"replaced": ["old"], "kept": []})
        assert (matching("old"), matching("new")) == (1, 2)
        await rig.cloud.rollouts.withdraw("new")
        assert matching("old") == 2
        assert await roll("old", selector="class=mcu") == (1, {"replaced": [], "kept": []})
        assert await roll("new") == (1, {"replaced": [], "kept": ["old"]})
        assert (matching("old"), matching("new")) == (1, 1)

    rolling(scenario, versions=1)
