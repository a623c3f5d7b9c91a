"""The agent that a system brought, and newer ones on top of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from msrt_device.updater import launcher
from msrt_device.updater.agent import AgentSlots
from tests.bench.tree import until
from tests.device.updater.images import agent, reader

PROGRAM = "import os, pathlib, sys\npathlib.Path(sys.argv[1]).write_text(os.environ['MSRT_SLOT'] or 'none')\n"


@pytest.fixture
def factory(tmp_path):
    """A system's folder."""
    return made(tmp_path / "factory", "1", "one")


def made(folder, version, build):
    folder.mkdir(exist_ok=True)
    (folder / "agent.py").write_text(PROGRAM)
    (folder / "slot.json").write_text(json.dumps({"version": version, "build": build}))
    return folder


def update(root, version):
    """As an agent is that has proven itself."""
    slots = AgentSlots(root, launcher.due(root).slot)
    image, data = agent(version)
    slots.write(image, reader(data))
    slots.arm(1, 60.0)
    AgentSlots(root, launcher.due(root).slot).commit()


def running(root):
    return launcher.whole(root, launcher.due(root).slot)["version"]


def test_the_agent_of_a_system_is_in_force_until_another_one_is(factory, tmp_path):
    """Each later start of the same system finds what was sent to it."""
    root = tmp_path / "slots"
    launcher.settle(root, factory)
    assert running(root) == "1"
    update(root, "2")
    launcher.settle(root, factory)
    assert running(root) == "2"


def test_another_system_brings_its_own_agent(factory, tmp_path):
    """What was sent for the one before was not made for it."""
    root = tmp_path / "slots"
    launcher.settle(root, factory)
    update(root, "2")
    launcher.settle(root, made(factory, "1", "another"))
    assert running(root) == "1"
    assert AgentSlots(root).state().held.keys() == {"a"}


def test_slots_that_were_settled_by_half_are_settled_again(factory, tmp_path, monkeypatch):
    """The power went before an agent was in force."""
    root = tmp_path / "slots"
    with monkeypatch.context() as patch:
        patch.setattr(launcher, "point", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            launcher.settle(root, factory)
    launcher.settle(root, factory)
    assert running(root) == "1"


def supervised(root, factory, program):
    """The launcher with an agent of this program, and the file that the agent's starts are noted in."""
    (factory / "agent.py").write_text(program)
    argv = [sys.executable, launcher.__file__, str(root), "--factory", str(factory), str(root.parent / "starts")]
    return subprocess.Popen(argv, stderr=subprocess.DEVNULL), root.parent / "starts"


NOTE = "import os, pathlib, sys\npathlib.Path(sys.argv[1]).open('a').write(os.environ['MSRT_SLOT'])\n"


def test_an_agent_that_was_decommissioned_is_not_started_again(factory, tmp_path):
    """The launcher ends with its status, by which a service manager knows, too."""
    process, starts = supervised(tmp_path / "slots", factory, f"{NOTE}sys.exit({launcher.GONE})\n")
    assert process.wait(20) == launcher.GONE
    assert starts.read_text() == "a"


def test_an_agent_on_trial_cannot_say_that_the_device_is_gone(factory, tmp_path):
    """Whatever an update ends with, the agent in force has the last word."""
    root, program = tmp_path / "slots", f"{NOTE}sys.exit({launcher.GONE})\n"
    (factory / "agent.py").write_text(program)
    launcher.settle(root, factory)
    slots = AgentSlots(root, "a")
    image, data = agent("2", program.encode())
    slots.write(image, reader(data))
    slots.arm(1, 60.0)
    process, starts = supervised(root, factory, program)
    assert process.wait(20) == launcher.GONE
    assert starts.read_text() == "ba"


@pytest.mark.parametrize("writable", [True, False])
def test_the_launcher_starts_it_with_and_without_a_disk(factory, tmp_path, writable):
    """Where no slot can be made there is an agent all the same; how often it ended is told to who started it."""
    root, said, told = tmp_path / "slots", tmp_path / "said", tmp_path / "run"
    told.mkdir()
    if not writable:
        root.write_text("a file in its place")
    copy = tmp_path / "launcher.py"
    shutil.copyfile(Path(launcher.__file__), copy)
    argv = [sys.executable, str(copy), str(root), "--factory", str(factory), str(said)]
    process = subprocess.Popen(argv, env={**os.environ, "RUNTIME_DIRECTORY": str(told)}, stderr=subprocess.DEVNULL)
    try:
        until("it ended", lambda: (told / "ended").exists() and (told / "ended").read_text() == "1\n", 20)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
    assert said.read_text() == ("a" if writable else "none")
