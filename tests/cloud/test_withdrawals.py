"""Loads and withdrawals of one region beside what the tree is told."""

from __future__ import annotations

import pytest

from msrt import errors
from msrt.journal.facts import GLOBAL
from tests.cloud.rig import device, simulate, until
from tests.runtime.inference.models import mlp


class Two:
    """Two regions with one device each, and two versions of `net`."""

    def __init__(self, rig):
        self.rig = rig

    async def join(self):
        self.north = await self.rig.edge("edge-n", "north", device("a"))
        self.south = await self.rig.edge("edge-s", "south", device("b"))
        for seed in (1, 2):
            await self.rig.push(mlp(seed=seed))
        return self

    @property
    def state(self):
        return self.rig.cloud.writer.state

    def here(self, region):
        """(version, state) that holds in a region."""
        fact = self.state.rollouts_in(region).get("net")
        return fact and (fact.version, fact.state)

    async def everywhere(self, version):
        await self.rig.operator.ask("model.rollout", model="net", version=version)
        self.north.report(device("a", ("net", version, "ready")))
        self.south.report(device("b", ("net", version, "ready")))
        await until(lambda: self.rig.cloud.rollouts.status("net")["state"] == "done")


def between(scenario):
    async def run(rig):
        await scenario(await Two(rig).join())

    simulate(run)


def test_an_edge_loads_a_model_for_its_region_alone():
    """The tree's rollout stays where it was; the version asked for is the newest, or the named one."""

    async def scenario(two):
        await two.everywhere(1)
        begun = await two.north.ask("model.load", model="net")
        assert (begun["version"], begun["previous"]) == (2, 1)
        assert two.here("north") == (2, "live")
        assert two.here("south") == (1, "live")
        await two.north.ask("model.load", model="net", version=1)
        assert two.here("north") == (1, "live")

    between(scenario)


def test_an_edge_speaks_of_its_own_region_only():
    """Neither of another one, nor of the tree."""

    async def scenario(two):
        for method in ("model.load", "model.unload"):
            with pytest.raises(errors.Forbidden, match="an edge of north"):
                await two.north.ask(method, model="net", region="south")
            with pytest.raises(errors.NotFound, match="no model is named"):
                await two.north.ask(method, model="nobody")

    between(scenario)


def test_a_version_that_does_not_load_in_a_region_goes_back_there():
    """To what ran there before; the tree does not notice."""

    async def scenario(two):
        await two.everywhere(1)
        await two.north.ask("model.load", model="net", version=2)
        two.north.report(device("a", ("net", 1, "ready"), ("net", 2, "failed")))
        await until(lambda: two.here("north") == (2, "rolled_back"))
        assert two.state.rollout("net", "north").previous == 1
        assert two.here("south") == (1, "live")

    between(scenario)


def test_a_withdrawal_is_for_one_region_and_lasts():
    """Nothing holds there any more, also when the tree's rollout is undone; asking twice is no fault."""

    async def scenario(two):
        await two.everywhere(1)
        await two.everywhere(2)
        assert (await two.north.ask("model.unload", model="net"))["withdrawn"]
        assert (two.here("north"), two.here("south")) == (None, (2, "live"))
        assert not (await two.north.ask("model.unload", model="net"))["withdrawn"]
        await two.rig.operator.ask("model.rollback", model="net")
        assert (two.here("north"), two.here("south")) == (None, (2, "rolled_back"))
        (row,) = await two.rig.operator.ask("model.list")
        assert row["regions"] == {"north": "2 withdrawn"}

    between(scenario)


def test_devices_of_a_region_without_the_model_do_not_fail_the_trees_rollout():
    """They never get it ready, and need not."""

    async def scenario(two):
        await two.north.ask("model.unload", model="net")
        await two.rig.operator.ask("model.rollout", model="net", version=1)
        await two.north.ask("model.unload", model="net")
        two.south.report(device("b", ("net", 1, "ready")))
        await until(lambda: two.rig.cloud.rollouts.status("net")["state"] == "done")

    between(scenario)


def test_a_rollout_to_the_tree_holds_again_in_every_region():
    """The newest word counts, and leaves nothing of the older one in the journal."""

    async def scenario(two):
        await two.everywhere(1)
        await two.north.ask("model.unload", model="net")
        await two.south.ask("model.load", model="net", version=2)
        await two.everywhere(2)
        assert two.here("north") == two.here("south") == (2, "live")
        assert two.state.regional == {}
        assert [entry for _, entry in two.state.facts("north") if entry.key[0] == "rollout"] == []

    between(scenario)


def test_the_operator_withdraws_a_model_from_the_tree():
    """Everywhere; no rollback brings it back, a rollout does."""

    async def scenario(two):
        await two.everywhere(1)
        await two.south.ask("model.load", model="net", version=2)
        await two.rig.operator.ask("model.unload", model="net")
        assert (two.here("north"), two.here("south")) == (None, None)
        with pytest.raises(errors.Conflict, match="withdrawn"):
            await two.rig.operator.ask("model.rollback", model="net")
        (row,) = await two.rig.operator.ask("model.list")
        assert (row["serving"], row["rollout"]) == (0, "1 withdrawn")
        await two.everywhere(2)
        assert [entry.version for _, entry in two.state.facts(GLOBAL) if entry.key == ("rollout", "net")] == [2]

    between(scenario)
