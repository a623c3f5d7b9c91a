"""Slots of a whole system: boot entries that count, and the power going at any change of the medium."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from msrt.artifacts.images import Kind
from msrt.errors import Conflict, InvalidImage
from msrt_device.updater.entries import parse_entries
from msrt_device.updater.here import system_slots
from msrt_device.updater.system import SystemSlots
from tests.device.updater.images import described, reader, tar

ENTRY = """title msrt (a)
sort-key msrt
version 1
linux /msrt/a/linux
initrd /msrt/a/initrd
options root=PARTLABEL=root-a msrt.slot=a ro console=ttyS0
"""
ROOT_BYTES = 64 * 1024
REPLACE, UNLINK = Path.replace, Path.unlink


class PowerCut(BaseException):
    """Nothing is written from here on."""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The whole machine's disks need not be waited for."""
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.fixture
def board(tmp_path):
    """A medium as it leaves the factory: the system in slot a."""
    for folder in ("esp/loader/entries", "esp/msrt/a", "parts"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "esp/loader/entries/msrt-a.conf").write_text(ENTRY)
    (tmp_path / "esp/msrt/a.json").write_text('{"version": "1"}')
    for slot in "ab":
        (tmp_path / f"parts/root-{slot}").write_bytes(b"1" * ROOT_BYTES if slot == "a" else bytes(ROOT_BYTES))
    return tmp_path


def slots(board, active="a"):
    return SystemSlots(active, board / "esp", board / "parts", board / "run/reboot")


def system(version, root=b"2" * 5000):
    """A system's image, and its bytes."""
    mark = version.encode()
    files = {"system.json": b"{}", "linux": b"L" + mark, "initrd": b"I" + mark, "root.img": root}
    data = tar(files)
    return described(data, version, Kind.SYSTEM), data


def boot(board):
    """What systemd-boot does: the highest version that has starts left, counted down before it starts."""
    folder = board / "esp/loader/entries"
    entries = [entry for entry in parse_entries(path.name for path in folder.iterdir()) if entry.left != 0]
    chosen = max(entries, key=lambda e: int((folder / e.name).read_text().split("version ")[1].split()[0]))
    text = (folder / chosen.name).read_text()
    if chosen.left is not None:
        (folder / chosen.name).rename(folder / f"msrt-{chosen.slot}+{chosen.left - 1}-{chosen.done + 1}.conf")
    assert f"root=PARTLABEL=root-{chosen.slot} msrt.slot={chosen.slot} " in text
    assert f"/msrt/{chosen.slot}/linux" in text
    return chosen.slot


def installed(board, version="2", tries=1):
    image, data = system(version)
    slots(board).write(image, reader(data))
    slots(board).arm(tries, 60.0)


def test_a_system_on_trial_starts_as_often_as_it_may_and_then_the_old_one_does(board):
    """The boot loader counts; the system that starts afterwards can say which one fell, and why."""
    installed(board, tries=2)
    assert slots(board).state().armed == "b"
    assert [boot(board), boot(board), boot(board)] == ["b", "b", "a"]
    state = slots(board).state()
    assert (state.fallen.version, state.armed, state.trial) == ("2", "", False)
    assert state.why == "2 of 2 starts ended before it was committed"


def test_a_commit_is_one_rename_and_makes_it_the_one_in_force(board):
    """The console and whatever else stood in the old entry stay."""
    installed(board)
    assert boot(board) == "b"
    new = slots(board, "b")
    assert new.state().trial
    new.commit()
    new.commit()  # repeated, as after a crash
    state = new.state()
    assert (state.running.version, state.trial, state.inactive) == ("2", False, "a")
    assert [boot(board), boot(board)] == ["b", "b"]
    assert "console=ttyS0" in (board / "esp/loader/entries/msrt-b.conf").read_text()
    assert (board / "parts/root-b").read_bytes().startswith(b"2" * 5000)
    assert (board / "esp/msrt/b/linux").read_bytes() == b"L2"


def test_what_runs_is_a_seed_for_the_next_one(board):
    """Its bytes are where they were unpacked to; the index of its chunks is given back as it came."""
    image, data = system("2")
    slots(board).write(image, reader(data), b"an index")
    slots(board).arm(1, 60.0)
    assert slots(board).seed() is None  # nobody wrote down how the first one lay together
    boot(board)
    found = slots(board, "b").seed()
    assert (found.size, found.chunks) == (len(data), b"an index")
    assert found.read(0, len(data)) == data
    slots(board, "b").commit()
    slots(board, "b").write(*system_args("3"))
    assert slots(board, "a").seed().chunks == b""


def test_a_system_that_gave_up_has_said_why(board):
    """By a file, for its agent may not even start."""
    installed(board)
    assert boot(board) == "b"
    (board / "esp/msrt/trial.why").write_text("its agent ended 3 times\n")
    assert boot(board) == "a"
    assert slots(board).state().why == "its agent ended 3 times"
    installed(board, "3")
    assert (boot(board), boot(board)) == ("b", "a")
    assert slots(board).state().why == "1 of 1 starts ended before it was committed"


def test_a_trial_that_was_taken_back_cannot_be_committed(board):
    """Neither by what still runs of it."""
    installed(board)
    assert boot(board) == "b"
    new = slots(board, "b")
    with pytest.raises(Conflict, match="fall back"):
        new.write(*system_args("3"))
    new.arm(0, 0.0)
    with pytest.raises(Conflict, match="not on trial"):
        new.commit()
    assert boot(board) == "a"


def system_args(version, **more):
    image, data = system(version, **more)
    return image, reader(data)


def test_nothing_is_armed_that_is_not_whole(board):
    """An empty slot, an image without a kernel, one that is larger than its partition."""
    with pytest.raises(Conflict, match="nothing that could be tried"):
        slots(board).arm(1, 60.0)
    data = tar({"system.json": b"{}", "root.img": b"2"})
    with pytest.raises(InvalidImage, match="has no initrd"):
        slots(board).write(described(data, "2", Kind.SYSTEM), reader(data))
    data = tar({"../linux": b""})
    with pytest.raises(InvalidImage, match="no system has"):
        slots(board).write(described(data, "2", Kind.SYSTEM), reader(data))
    with pytest.raises(Conflict):
        slots(board).arm(1, 60.0)
    assert boot(board) == "a"


def test_the_power_may_go_at_any_change_of_the_medium(board, monkeypatch):
    """Whatever came on the medium before: a whole system starts, and the update can be done again."""
    for left in range(100):
        steps = iter(range(left))

        def cut(self, target, real, steps=steps):
            if next(steps, None) is None:
                raise PowerCut
            return real(self) if target is None else real(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", lambda self, target, cut=cut: cut(self, target, REPLACE))
            patch.setattr(Path, "unlink", lambda self, missing_ok=False, cut=cut: cut(self, None, UNLINK))
            try:
                installed(board)
                whole = True
            except PowerCut:
                whole = False
        slot = boot(board)
        folder = board / "esp/msrt"
        assert slot == "a" or json.loads((folder / "b.json").read_text())["version"] == "2"
        if slot == "b":
            assert (board / "parts/root-b").read_bytes().startswith(b"2" * 5000)
            assert boot(board) == "a"  # not committed
        if whole:
            return
    raise AssertionError("the update never ended")


def test_only_our_own_images_have_system_slots(tmp_path):
    """Elsewhere there is nothing of the machine that an update could write."""
    (tmp_path / "cmdline").write_text("root=/dev/sda1 quiet\n")
    assert system_slots(tmp_path / "cmdline", tmp_path) == {}
    (tmp_path / "cmdline").write_text("root=PARTLABEL=root-b msrt.slot=b ro\n")
    assert system_slots(tmp_path / "cmdline", tmp_path) == {}
    (tmp_path / "loader/entries").mkdir(parents=True)
    assert list(system_slots(tmp_path / "cmdline", tmp_path)) == [Kind.SYSTEM]
