"""An agent under its launcher is updated over the air, and comes back by itself."""

from __future__ import annotations

import json

import pytest

from tests.bench.tree import until
from tests.processes.updating import Site


@pytest.mark.slow
def test_an_agent_is_updated_and_says_so_once(tree):
    """Version 2 runs after one rollout, is in force, and the cloud hears of it once."""
    site = Site(tree)
    name = site.push("2")
    tree.cli("update", "rollout", name)
    row = site.ended(name)
    assert (row["state"], row["done"], row["errors"]) == ("done", 1, 0)
    assert (site.in_force(), site.running()) == ("2", "2")
    until("the outcome is told", site.outcomes)
    assert [(one["outcome"], one["version"], one["from"]) for one in site.outcomes()] == [("done", "2", "1")]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["crashes", "dies", "hangs", "deaf"])
def test_an_agent_that_does_not_prove_itself_is_left_again(tree, how):
    """The old version is back, said so once, and the same image is refused until another one ran."""
    site = Site(tree)
    name = site.push("2", how)
    tree.cli("update", "rollout", name)
    row = site.ended(name)
    assert (row["state"], row["errors"]) == ("stopped", 1)
    until("the old agent is back", lambda: site.running() == "1", 30)
    assert site.in_force() == "1"
    assert [(one["outcome"], one["version"]) for one in site.outcomes()] == [("failed", "2")]
    site.ask("update.rollout", name=name)
    assert "failed here before" in site.ended(name)["reason"]


@pytest.mark.slow
def test_a_device_is_looked_at_through_its_edge(tree):
    """Its log and how it is, without a port on it; while it is away that is said."""
    site = Site(tree)
    assert any("device.joined" in line for line in tree.cli("node", "logs", "d1").splitlines())
    found = json.loads(tree.cli("node", "diagnose", "d1", "--json"))
    assert found["agent"] == "1"
    assert abs(found["clock_offset_s"]) < 5
    assert found["updates"] == [{"kind": "agent", "version": "1"}]
    assert {"disk_free_bytes", "machine_memory_bytes", "up_s", "link", "last_errors", "models"} <= found.keys()
    tree.procs["d1"].stop()
    with pytest.raises(RuntimeError, match="d1 is away"):
        until("it is away", lambda: tree.cli("node", "diagnose", "d1") == "", 15)
    assert site.in_force() == "1"
