"""Slots of a Raspberry Pi, on a model of its boot loader, which reads autoboot.txt and forgets the flag it was given;
and the power going at any change of the medium."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from msrt.artifacts.images import Kind
from msrt.errors import Conflict, InvalidImage
from msrt_device.flash.raspberrypi.boot import FileBytes
from msrt_device.flash.volumes.fat import FatVolume
from msrt_device.flash.volumes.partitions import Partition
from msrt_device.updater import autoboot
from msrt_device.updater.here import tryboot_slots
from msrt_device.updater.tryboot import TrybootSlots
from tests.device.updater.images import described, reader, tar

pytestmark = pytest.mark.skipif(
    not (shutil.which("mkfs.vfat") and shutil.which("mcopy")), reason="needs dosfstools and mtools"
)
ROOT_BYTES = 64 * 1024
FACTORY = "console=tty1 rootwait quiet root=PARTLABEL=root-a rw panic=10 msrt.slot=a\n"
REPLACE, UNLINK, WRITE = Path.replace, Path.unlink, FileBytes.write
TRIAL = Path(autoboot.__file__).parents[1] / "flash/raspberrypi/rootfs/usr/lib/msrt/trial"


class PowerCut(BaseException):
    """Nothing is written from here on."""


class Pi:
    """A board and its boot loader, as the Raspberry Pi documentation has it ("autoboot.txt", "tryboot")."""

    def __init__(self, folder):
        self.folder = folder
        self.boot, self.parts, self.reboot = folder / "boot", folder / "parts", folder / "run/reboot"
        self.tryboot = False

    def slots(self, active):
        return TrybootSlots(active, self.boot, self.parts, self.reboot, self.folder / "identity")

    def start(self):
        """From power-on or a reset: the slot whose kernel runs."""
        flag, self.tryboot = self.tryboot, False  # one-shot
        partition, section = 1, "all"
        for line in (self.boot / "autoboot.txt").read_text()[:512].splitlines():
            if line.startswith("["):
                section = line.strip("[]")
            elif line.startswith("boot_partition=") and (section == "all" or (section == "tryboot" and flag)):
                partition = int(line.split("=")[1])
        name = {2: "a", 3: "b"}[partition]
        words = on_fat(self.parts / f"boot-{name}", "cmdline.txt").split()
        assert f"msrt.slot={name}" in words
        assert [word for word in words if word.startswith("root=")] == [f"root=PARTLABEL=root-{name}"]
        return name

    def restarted(self):
        """What msrt-reboot.service does with the file, then the boot loader."""
        self.tryboot = self.reboot.read_text() == "0 tryboot"
        self.reboot.unlink()
        return self.start()


def on_fat(path, name):
    fd = os.open(path, os.O_RDONLY)
    try:
        medium = FileBytes(fd)
        return FatVolume.open(medium, Partition(0, 0, medium.size, "")).read(name).decode()
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def boot_fat(tmp_path_factory):
    """A boot partition of ours, for any slot."""
    folder = tmp_path_factory.mktemp("fat")
    files = {"cmdline.txt": FACTORY, "config.txt": "", "msrt.json": '{"first_boot": "cloud-init"}', "kernel8.img": "1"}
    for name, text in files.items():
        (folder / name).write_text(text)
    image = folder / "boot.img"
    image.write_bytes(bytes(256 * 1024))
    subprocess.run(["mkfs.vfat", "-F", "12", str(image)], check=True, capture_output=True)
    subprocess.run(["mcopy", "-i", str(image), *(str(folder / one) for one in files), "::"], check=True)
    return image.read_bytes()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The whole machine's disks need not be waited for."""
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.fixture
def pi(tmp_path, boot_fat):
    return factory(tmp_path, boot_fat)


def factory(folder, boot_fat):
    """A board as it leaves the desk: the system in slot a, an identity."""
    for name in ("boot", "parts", "identity"):
        (folder / name).mkdir(parents=True)
    (folder / "boot/autoboot.txt").write_text(autoboot.render("a"))
    (folder / "boot/a.json").write_text('{"version": "1"}')
    (folder / "identity/identity.toml").write_text('name = "oven-7"\n[wifi]\nssid = "hall"\n')
    (folder / "parts/boot-a").write_bytes(boot_fat)
    (folder / "parts/boot-b").write_bytes(bytes(len(boot_fat)))
    for slot in "ab":
        (folder / f"parts/root-{slot}").write_bytes(b"1" * ROOT_BYTES if slot == "a" else bytes(ROOT_BYTES))
    return Pi(folder)


def system(version, boot_fat, root=b"2" * 5000):
    """A system's image, and its bytes by offset."""
    data = tar({"system.json": b"{}", "boot.img": boot_fat, "root.img": root})
    return described(data, version, Kind.SYSTEM), reader(data)


def installed(pi, boot_fat, version="2", tries=1):
    pi.slots("a").write(*system(version, boot_fat))
    pi.slots("a").arm(tries, 60.0)
    pi.slots("a").restart()


def test_a_trial_is_started_once_and_then_the_old_system(pi, boot_fat):
    """The boot loader forgets the flag; the system that starts afterwards can say what fell, and why."""
    installed(pi, boot_fat)
    assert pi.restarted() == "b"
    assert pi.slots("b").state().trial
    assert pi.start() == "a"  # it crashed, its network was broken, the plug was pulled: all the same
    state = pi.slots("a").state()
    assert (state.fallen.version, state.armed, state.trial) == ("2", "", False)
    assert state.why == "1 of 1 starts ended before it was committed"


def test_more_tries_are_counted_by_who_asks_for_them(pi, boot_fat):
    """Each start takes one, before it is made; without any left a restart is one of the system in force."""
    installed(pi, boot_fat, tries=2)
    assert pi.restarted() == "b"
    assert pi.start() == "a"
    assert pi.slots("a").state().armed == "b"
    pi.slots("a").restart()
    assert pi.restarted() == "b"
    pi.slots("b").restart()
    assert pi.restarted() == "a"
    assert pi.slots("a").state().why == "2 of 2 starts ended before it was committed"


def test_a_commit_is_one_new_autoboot_txt(pi, boot_fat):
    """From then on it is the one that every start takes, and its settings are the board's."""
    installed(pi, boot_fat)
    assert pi.restarted() == "b"
    new = pi.slots("b")
    new.commit()
    new.commit()  # repeated, as after a crash
    state = new.state()
    assert (state.running.version, state.trial, state.inactive) == ("2", False, "a")
    assert [pi.start(), pi.start()] == ["b", "b"]
    assert (pi.parts / "root-b").read_bytes().startswith(b"2" * 5000)
    assert '"hostname": "oven-7"' in on_fat(pi.parts / "boot-b", "user-data")
    assert '"hall"' in on_fat(pi.parts / "boot-b", "network-config")
    assert "console=tty1" in on_fat(pi.parts / "boot-b", "cmdline.txt")
    new.write(*system("3", boot_fat))
    new.arm(1, 60.0)
    new.restart()
    assert pi.restarted() == "a"
    assert pi.slots("a").state().trial


def test_a_trial_that_was_taken_back_cannot_be_committed(pi, boot_fat):
    """Neither by what still runs of it; and what it would fall back to is not written to."""
    installed(pi, boot_fat)
    assert pi.restarted() == "b"
    new = pi.slots("b")
    with pytest.raises(Conflict, match="fall back"):
        new.write(*system("3", boot_fat))
    new.arm(0, 0.0)
    with pytest.raises(Conflict, match="not on trial"):
        new.commit()
    new.restart()
    assert pi.restarted() == "a"


def test_nothing_is_armed_that_is_not_whole(pi, boot_fat):
    """An empty slot, an image without a root, one that is larger than its partition, one of another kind of board."""
    with pytest.raises(Conflict, match="nothing that could be tried"):
        pi.slots("a").arm(1, 60.0)
    for files, why in (
        ({"system.json": b"{}", "boot.img": boot_fat}, "has no root.img"),
        ({"system.json": b"{}", "linux": b"", "initrd": b"", "root.img": b""}, "no system of a Raspberry Pi"),
        ({"system.json": b"{}", "boot.img": boot_fat, "root.img": bytes(ROOT_BYTES + 1)}, "larger than the partition"),
        ({"system.json": b"{}", "boot.img": bytes(4096), "root.img": b"2"}, "no FAT"),
    ):
        data = tar(files)
        with pytest.raises(InvalidImage, match=why):
            pi.slots("a").write(described(data, "2", Kind.SYSTEM), reader(data))
        with pytest.raises(Conflict):
            pi.slots("a").arm(1, 60.0)
    assert pi.start() == "a"


@pytest.mark.slow
def test_the_power_may_go_at_any_change_of_the_medium(tmp_path, boot_fat, monkeypatch):
    """Whatever came on the medium before: a whole system starts, and the update can be done again."""
    for left in range(100):
        pi = factory(tmp_path / str(left), boot_fat)
        steps = iter(range(left))

        def cut(real, *given, steps=steps):
            if next(steps, None) is None:
                raise PowerCut
            return real(*given)

        def update(pi=pi):
            installed(pi, boot_fat)
            if pi.restarted() == "b":
                pi.slots("b").commit()

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", lambda self, target, cut=cut: cut(REPLACE, self, target))
            patch.setattr(Path, "unlink", lambda self, missing_ok=False, cut=cut: cut(UNLINK, self))
            patch.setattr(FileBytes, "write", lambda self, offset, data, cut=cut: cut(WRITE, self, offset, data))
            try:
                update()
                whole = True
            except PowerCut:
                whole, pi.tryboot = False, False  # the flag is in a register
        slot = pi.start()
        if slot == "b":
            assert json.loads((pi.boot / "b.json").read_text())["version"] == "2"
            assert (pi.parts / "root-b").read_bytes().startswith(b"2" * 5000)
        else:
            pi.reboot.unlink(missing_ok=True)  # /run is memory
            update()
        assert pi.start() == "b"
        if whole:
            return
    raise AssertionError("the update never ended")


def test_a_trial_that_nobody_commits_is_ended_by_the_system_itself(pi, boot_fat, tmp_path):
    """By a program that needs nothing of the agent; a system in force is left alone."""
    installed(pi, boot_fat)
    (pi.boot / "trial.seconds").write_text("-30\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "systemctl").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n')
    (programs / "systemctl").chmod(0o755)
    for slot in "ab":
        cmdline = tmp_path / "cmdline"
        cmdline.write_text(f"rootwait msrt.slot={slot} rw\n")
        path = f"{programs}:{os.environ['PATH']}"
        subprocess.run(["sh", str(TRIAL), str(pi.boot), str(cmdline)], check=True, env={"PATH": path}, timeout=20)
        assert (tmp_path / "asked").exists() == (slot == "b")
    assert (tmp_path / "asked").read_text() == "reboot\n"


def test_only_our_own_images_have_these_slots(tmp_path):
    """Elsewhere there is nothing of the machine that an update could write."""
    (tmp_path / "cmdline").write_text("root=PARTUUID=1-02 rootwait\n")
    assert tryboot_slots(tmp_path / "cmdline", tmp_path) == {}
    (tmp_path / "cmdline").write_text("root=PARTLABEL=root-b msrt.slot=b rw\n")
    assert tryboot_slots(tmp_path / "cmdline", tmp_path) == {}
    (tmp_path / "autoboot.txt").write_text(autoboot.render("b"))
    assert list(tryboot_slots(tmp_path / "cmdline", tmp_path)) == [Kind.SYSTEM]


def test_autoboot_txt_says_what_starts():
    """Power-on and trial of either slot; what is not ours is no slot's."""
    for slot, number, other in (("a", 2, 3), ("b", 3, 2)):
        text = autoboot.render(slot)
        assert (autoboot.starts(text, tryboot=False), autoboot.starts(text, tryboot=True)) == (number, other)
        assert autoboot.in_force(text) == slot
    assert autoboot.in_force("[tryboot]\nboot_partition=2\n") == ""
