"""An agent under its launcher is updated over the air, and comes back by itself."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time

import pytest

from msrt_device.updater.command import COPY
from msrt_device.wiping import Decommissioned
from tests.bench.tree import MSRT, Proc, until
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
@pytest.mark.parametrize("how", ["crashes", "hangs", "deaf"])
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
def test_a_decommissioned_device_is_started_no_more(tree):
    """Its launcher ends with the agent, and each later start at once, as after a reboot. A new invite brings it back;
    one that was reset comes up for enrolment as ever."""
    site, state = Site(tree), tree.path / "d1"
    tree.cli("node", "decommission", "d1", "--yes")
    assert tree.procs["d1"].popen.wait(30) == Decommissioned.exit_status
    argv = [sys.executable, str(site.root / COPY), str(site.root), "device", "join", "--state", str(state)]
    again = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == Decommissioned.exit_status
    assert "was decommissioned" in again.stderr
    assert again.stderr.count("launcher.starts") == 1
    site.arguments = ["device", "join", tree.invite("device", "--region", "north"), "--name", "d1"]
    site.start()
    until("it is back", lambda: site.running() == "1", 30)
    tree.procs["d1"].stop()
    subprocess.run([MSRT, "device", "reset", "--state", str(state), "--yes"], check=True, timeout=60)
    fresh = Proc(argv, tree.path / "fresh.log")
    try:
        until("it waits for its enrolment", lambda: fresh.log.read_text().count("launcher.ended") >= 2, 60)
        assert "holds no membership yet" in fresh.log.read_text()
    finally:
        fresh.stop()


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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_machine_may_lose_its_power_at_any_moment_of_an_update(tree):
    """Launcher and agent are killed at sampled moments, from the offer to the commit: an agent is always there, one
    that was in force before or the new one proven; what became of it is told once, and the next update goes through."""
    site = Site(tree)
    version = "2"
    name, draw = site.push(version), random.Random(1)
    site.ask("update.rollout", name=name, errors=1.0, success=0.5)
    for _ in range(5):
        time.sleep(draw.uniform(0.1, 3.5))  # that is the fault: any moment will do
        site.power_cut()
        assert site.in_force() in {"1", version}
        site.start()
    until("what became of it is told", site.outcomes, 60)
    told = [(one["version"], one["outcome"]) for one in site.outcomes()]
    assert len(told) == 1
    assert told[0] == (version, "done" if site.in_force() == version else "failed")
    last = site.push("9")
    site.ask("update.rollout", name=last)
    assert site.ended(last)["state"] == "done"
    assert (site.in_force(), site.running()) == ("9", "9")


@pytest.mark.slow
def test_an_agent_is_signed_by_two_people_without_a_network(tree):
    """Their keys take the place of the cloud's; one alone is too few; the device follows what both signed."""
    site = Site(tree)
    there = tree.path / "there"
    there.mkdir()
    one, two, rotation, request = (there / name for name in ("one.pem", "two.pem", "rotation.json", "request.json"))
    for key in (one, two):
        apart("make", key)
    public = [word for key in (one, two) for word in ("--public", f"{key}.pub")]
    tree.cli("cloud", "keys", "request", "agents", str(rotation), *public, "--threshold", "2")
    assert "1 of 2 signatures" in apart("sign", rotation, "--key", one, "--yes")
    with pytest.raises(RuntimeError, match="1 of the 2 signatures"):
        tree.cli("cloud", "keys", "import", str(rotation))
    apart("sign", rotation, "--key", two, "--yes")
    assert "agents 2 is in force" in tree.cli("cloud", "keys", "import", str(rotation))

    image = site.made("2")
    push = ("update", "push", str(image), "--kind", "agent", "--version", "2")
    with pytest.raises(RuntimeError, match="0 of the 2 keys that sign agents are here"):
        tree.cli(*push)
    tree.cli(*push, "--request", str(request))
    with pytest.raises(RuntimeError, match="none of these files is agent@2"):
        apart("sign", request, "--key", one, "--image", site.image, "--yes")
    assert "agent@2" in apart("sign", request, "--key", one, "--key", two, "--image", image, "--yes")
    tree.cli(*push, "--signed", str(request))
    tree.cli("update", "rollout", "agent@2")
    assert site.ended("agent@2")["state"] == "done"
    assert (site.in_force(), site.running()) == ("2", "2")
    with pytest.raises(RuntimeError, match="in their place, alone"):
        tree.cli("cloud", "keys", "rotate", "agents")


def apart(*argv):
    """A command of `msrt cloud keys` where no cloud is; what it says."""
    done = subprocess.run([MSRT, "cloud", "keys", *map(str, argv)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout
