"""The agent's slots and the launcher's choice, with the power going at any write."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from msrt.errors import Conflict, DiskFull, InvalidImage
from msrt_device.updater import launcher
from msrt_device.updater.agent import AgentSlots
from tests.device.updater.images import agent, described, reader, tar


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Disks need not be waited for."""
    monkeypatch.setattr(os, "sync", lambda: None)
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


@pytest.fixture
def root(tmp_path):
    """Slots with version 1 in force."""
    install(tmp_path, "1")
    return tmp_path


def install(root, version):
    image, data = agent(version)
    AgentSlots(root).write(image, reader(data))
    launcher.point(root, "a")


def version_of(root, slot):
    return launcher.whole(root, slot)["version"]


def test_what_was_written_and_armed_starts_once_and_then_the_old_one_again(root):
    """A trial has as many starts as it was armed for; what is not committed falls, and says why."""
    image, data = agent("2")
    slots = AgentSlots(root)
    slots.write(image, reader(data))
    slots.arm(1, 60.0)
    start = launcher.due(root)
    assert (version_of(root, start.slot), bool(start.trial)) == ("2", True)
    back = launcher.due(root)
    assert (version_of(root, back.slot), bool(back.trial)) == ("1", False)
    state = AgentSlots(root, back.slot).state()
    assert (state.fallen.version, state.armed, state.trial) == ("2", "", False)
    assert "before it was committed" in state.why


def test_a_commit_makes_it_the_one_in_force(root):
    """From then on it starts, and the other slot is free."""
    image, data = agent("2")
    AgentSlots(root).write(image, reader(data))
    AgentSlots(root).arm(1, 60.0)
    new = AgentSlots(root, launcher.due(root).slot)
    assert new.state().trial
    new.commit()
    new.commit()  # repeated, as after a crash
    start = launcher.due(root)
    assert (version_of(root, start.slot), start.trial) == ("2", {})
    assert new.state().inactive != start.slot


def test_an_agent_on_trial_does_not_write_over_what_it_would_fall_back_to(root):
    """Until it is committed its other slot is the one in force."""
    image, data = agent("2")
    AgentSlots(root).write(image, reader(data))
    AgentSlots(root).arm(1, 60.0)
    new = AgentSlots(root, launcher.due(root).slot)
    with pytest.raises(Conflict, match="fall back"):
        new.write(image, reader(data))


def test_too_late_a_commit_is_refused(root):
    """Once the trial is over, what still runs of it cannot make itself the one in force."""
    image, data = agent("2")
    AgentSlots(root).write(image, reader(data))
    AgentSlots(root).arm(1, 60.0)
    new = AgentSlots(root, launcher.due(root).slot)
    launcher.due(root)
    with pytest.raises(Conflict, match="not on trial"):
        new.commit()


@pytest.mark.parametrize("data", [b"no tar", tar({"other.py": b""}), tar({"../out.py": b"", "agent.py": b""})])
def test_what_is_no_agent_is_refused(root, data):
    """Such an image is named, never armed, and the agent in force is untouched."""
    slots = AgentSlots(root)
    with pytest.raises(InvalidImage):
        slots.write(described(data, "2"), reader(data))
    with pytest.raises(Conflict):
        slots.arm(1, 60.0)
    assert version_of(root, launcher.due(root).slot) == "1"
    assert not (root / "out.py").exists()


def test_a_damaged_link_or_slot_leaves_the_other_one(root):
    """Whatever is whole is better than no agent."""
    image, data = agent("2")
    slots = AgentSlots(root)
    slots.write(image, reader(data))
    (root / "current").unlink()
    assert version_of(root, launcher.due(root).slot) in {"1", "2"}
    launcher.point(root, "a")
    (root / "a" / "agent.py").unlink()
    assert version_of(root, launcher.due(root).slot) == "2"


class PowerCut(BaseException):
    """Nothing is written from here on."""


CHANGES = ("replace", "unlink", "mkdir", "symlink", "rmdir")


def cut(monkeypatch, after):
    """The power goes at the change of the disk with this number; how many there were."""
    count = [0]

    def counted(real):
        def change(*args, **kwargs):
            count[0] += 1
            if count[0] > after:
                raise PowerCut
            return real(*args, **kwargs)

        return change

    for name in CHANGES:
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    for name in ("replace", "unlink", "mkdir", "symlink_to"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    real = os.fsync
    monkeypatch.setattr(os, "fsync", counted(real))
    return count


def update(root):
    """A whole update as one process does it, and the next one commits it."""
    image, data = agent("2")
    old = AgentSlots(root, launcher.due(root).slot)
    old.write(image, reader(data))
    old.arm(1, 60.0)
    AgentSlots(root, launcher.due(root).slot).commit()


def test_the_power_may_go_at_any_change_of_an_update(tmp_path, monkeypatch):
    """Afterwards one of the two versions starts, whole; after a second start without a commit it is in force."""
    ends = set()
    for after in range(1000):
        root = tmp_path / str(after)
        install(root, "1")
        with monkeypatch.context() as patch:
            cut(patch, after)
            try:
                update(root)
                done = True
            except PowerCut:
                done = False
        launcher.due(root)
        start = launcher.due(root)  # the trial, if there was one, had its one start
        assert start.trial == {}
        said = launcher.whole(root, start.slot)
        assert (root / start.slot / "lib/version.txt").read_text() == said["version"]
        assert version_of(root, start.slot) == "2" or not done
        ends.add(said["version"])
        slots = AgentSlots(root, start.slot)  # and the next update goes through
        image, data = agent("3")
        slots.write(image, reader(data))
        slots.arm(1, 60.0)
        AgentSlots(root, launcher.due(root).slot).commit()
        assert version_of(root, launcher.due(root).slot) == "3"
        if done:
            break
    assert done
    assert ends == {"1", "2"}


def test_what_is_renamed_was_synced_before(root, monkeypatch):
    """Else the power could leave a new name with nothing behind it."""
    said = []
    real_sync, real_replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: said.append("sync") or real_sync(fd))
    monkeypatch.setattr(Path, "replace", lambda path, to: said.append("rename") or real_replace(path, to))
    launcher.put(root / "trial.json", {})
    assert said == ["sync", "rename", "sync"]


def test_an_unpacked_image_is_read_as_it_was(root):
    """Byte for byte from any offset; a file that was lost since reads as zeros, and nothing else changes."""
    image, data = agent("2", b"x" * 5000)
    slots = AgentSlots(root)
    slots.write(image, reader(data))
    slots.arm(1, 60.0)
    size, read, _ = AgentSlots(root, launcher.due(root).slot).seed()
    assert size == len(data)
    assert read(0, size) == data
    assert all(read(at, 700) == data[at : at + 700] for at in range(0, size, 511))
    (root / "b" / "agent.py").unlink()
    assert len(read(0, size)) == size
    assert read(0, 512) == data[:512]


def test_an_agent_that_nobody_packed_has_no_seed(root):
    """Then all of an image is fetched."""
    (root / "seed-a" / "map.json").unlink()
    assert AgentSlots(root).seed() is None


def test_a_disk_that_gets_full_is_not_left_full(root, monkeypatch):
    """Half an image goes again, so that others find room; what is in force stays, and a later try succeeds."""
    image, data = agent("2")

    def full(*_):
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patched:
        patched.setattr(launcher, "put", full)
        with pytest.raises(DiskFull, match="is full"):
            AgentSlots(root).write(image, reader(data))
    assert not (root / "b").exists()
    assert version_of(root, launcher.due(root).slot) == "1"
    AgentSlots(root).write(image, reader(data))
    assert version_of(root, "b") == "2"


@pytest.mark.parametrize("name", ["../agent.py", "/tmp/agent.py", "lib/../../agent.py"])
def test_an_agent_keeps_to_its_folder(root, name):
    """An image that names a file outside of it is refused."""
    data = tar({"agent.py": b"", name: b""})
    with pytest.raises(InvalidImage, match="which no agent has"):
        AgentSlots(root).write(described(data, "2"), reader(data))
    assert version_of(root, launcher.due(root).slot) == "1"
