"""What may be written: each refusal on a tree of /sys and /proc, and where the machine allows it on a real disk."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from msrt_device.flash.writing.errors import MediumRefused
from msrt_device.flash.writing.image import Image
from msrt_device.flash.writing.journal import Forgetful
from msrt_device.flash.writing.machine import Machine
from msrt_device.flash.writing.medium import Medium, OpenMedium, check, describe
from msrt_device.flash.writing.verify import verify
from msrt_device.flash.writing.writer import write_image
from tests.device.flash.media import noise

STICK = "devices/pci0000:00/0000:00:14.0/usb1/1-2/host6/block/sdb"
DISK = "devices/pci0000:00/ata1/host0/block/sda"


class Tree:
    """A /sys and /proc of ours: a USB stick sdb (8:16) with one partition, and a fixed disk sda (8:0) with two."""

    def __init__(self, root):
        self.root = root
        (root / "sys/dev/block").mkdir(parents=True)
        (root / "sys/block").mkdir()
        (root / "proc/self").mkdir(parents=True)
        self.mounts("8:1 / / ext4 /dev/sda1")
        self.put("proc/swaps", "Filename Type Size Used Priority\n")
        self.disk(STICK, "8:16", sectors=60_000_000, removable=1, model="Ultra Fit", vendor="SanDisk")
        self.disk(f"{STICK}/sdb1", "8:17", sectors=50_000_000, partition=1)
        self.disk(DISK, "8:0", sectors=1_000_000_000, removable=0, model="Fixed 500")
        self.disk(f"{DISK}/sda1", "8:1", sectors=900_000_000, partition=1)
        self.disk(f"{DISK}/sda2", "8:2", sectors=90_000_000, partition=2)
        self.disk("devices/virtual/block/dm-0", "253:0", sectors=40_000_000)

    def put(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def disk(self, path, number, *, sectors, ro=0, removable=None, partition=None, model="", vendor=""):
        entries = {
            "dev": number, "size": sectors, "ro": ro, "removable": removable, "partition": partition,
            "device/model": model, "device/vendor": vendor,
        }  # fmt: skip
        for name, value in entries.items():
            if value not in (None, ""):
                self.put(f"sys/{path}/{name}", value)
        (self.root / "sys/dev/block" / number).symlink_to(self.root / "sys" / path)

    def holder(self, path, above):
        (self.root / "sys" / path / "holders").mkdir()
        (self.root / "sys" / path / "holders" / Path(above).name).symlink_to(self.root / "sys" / above)

    def mounts(self, *lines):
        said = [line.split(" ") for line in lines]
        self.put(
            "proc/self/mountinfo",
            "\n".join(f"2{i} 1 {m[0]} / {m[1]} rw - {m[3]} {m[4]} rw" for i, m in enumerate(said)),
        )

    def medium(self, major, minor):
        disk = Machine(self.root).disk(major, minor)
        return Medium(Path("/dev") / disk.name, disk, disk.size)


@pytest.fixture
def tree(tmp_path):
    """The machine with its stick."""
    return Tree(tmp_path)


def refused(medium, need=1 << 30, **force):
    with pytest.raises(MediumRefused) as raised:
        check(medium, need, **force)
    return raised.value.reason, str(raised.value)


def test_a_stick_that_nobody_uses_may_be_written(tree):
    """A person is asked by its model and size."""
    medium = tree.medium(8, 16)
    check(medium, 1 << 30)
    assert medium.title == "SanDisk Ultra Fit, 30.7 GB (/dev/sdb)"


def test_a_mounted_partition_refuses_its_disk(tree):
    """Also by another name, and with a space in the mount point."""
    tree.mounts("8:1 / / ext4 /dev/sda1", r"8:17 /media/my\040stick / vfat /dev/sdb1")
    reason, said = refused(tree.medium(8, 16))
    assert reason == "mounted"
    assert "/media/my stick" in said
    tree.mounts("8:1 / / ext4 /dev/sda1", "0:44 /data / btrfs /dev/sdb1")
    assert refused(tree.medium(8, 16))[0] == "mounted"


def test_swap_on_it_refuses(tree):
    """And says how to switch it off."""
    tree.put("proc/swaps", "Filename Type Size Used Priority\n/dev/sdb1 partition 100 0 -2")
    reason, said = refused(tree.medium(8, 16))
    assert reason == "swap"
    assert "swapoff /dev/sdb1" in said


@pytest.mark.parametrize("point", ["/", "/boot", "/boot/efi", "/usr"])
def test_the_disk_of_the_running_system_is_refused_whatever_is_forced(tree, point):
    """By its own word."""
    tree.mounts(f"8:2 {point} / ext4 /dev/sda2")
    reason, said = refused(tree.medium(8, 0), force_non_removable=True)
    assert reason == "system"
    assert "running system" in said


def test_the_running_system_is_found_below_what_stands_on_the_disk(tree):
    """LUKS or LVM on a partition, and the root on that."""
    tree.holder(f"{DISK}/sda2", "devices/virtual/block/dm-0")
    tree.mounts("253:0 / / ext4 /dev/mapper/root")
    assert refused(tree.medium(8, 0), force_non_removable=True)[0] == "system"
    tree.mounts("0:1 / / tmpfs none")
    reason, said = refused(tree.medium(8, 0), force_non_removable=True)
    assert reason == "holder"
    assert "dm-0" in said


def test_a_read_only_disk_is_refused(tree):
    """A card's switch."""
    tree.put(f"sys/{STICK}/ro", "1")
    assert refused(tree.medium(8, 16))[0] == "read_only"


def test_too_small_a_disk_is_refused(tree):
    """With both sizes."""
    reason, said = refused(tree.medium(8, 16), need=31 << 30)
    assert reason == "too_small"
    assert "30720000000" in said


def test_a_fixed_disk_is_refused_unless_forced_in_words(tree):
    """The words are in the refusal."""
    tree.mounts("0:1 / / tmpfs none")
    reason, said = refused(tree.medium(8, 0))
    assert reason == "not_removable"
    assert "--force-non-removable" in said
    check(tree.medium(8, 0), 1 << 30, force_non_removable=True)


def test_a_partition_is_refused(tree):
    """With the name of its disk."""
    reason, said = refused(tree.medium(8, 17))
    assert reason == "partition"
    assert "/dev/sdb" in said


def test_a_card_in_a_builtin_reader_counts_as_removable(tree):
    """The kernel says removable=0 of it; soldered flash stays fixed."""
    path = "devices/platform/mmc/mmc_host/mmc0/mmc0:1/block/mmcblk0"
    tree.disk(path, "179:0", sectors=9_000_000, removable=0)
    tree.put(f"sys/{path}/device/type", "SD")
    check(tree.medium(179, 0), 1 << 30)
    tree.put(f"sys/{path}/device/type", "MMC")
    assert refused(tree.medium(179, 0))[0] == "not_removable"


@pytest.mark.parametrize(
    ("name", "said"),
    [("/dev/null", "neither"), ("/dev/no-such-disk", "plugged in"), ("no-such-folder/x.img", "no folder")],
)
def test_what_is_no_medium_is_refused(tmp_path, name, said):
    """A character device, a device that is not there, a folder that is not there."""
    with pytest.raises(MediumRefused, match=said):
        describe(tmp_path / name, Machine())


def test_a_file_that_another_writer_has_is_in_use(tmp_path):
    """The second of two is refused, and the first goes on."""
    target = tmp_path / "out.img"
    with OpenMedium.open(describe(target, Machine())), pytest.raises(MediumRefused) as raised:
        OpenMedium.open(describe(target, Machine()))
    assert raised.value.reason == "in_use"


@contextlib.contextmanager
def loop_device(file, *options):
    """A real disk over a file, where this machine allows it."""
    made = subprocess.run(["losetup", "-f", "--show", *options, str(file)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device here: {made.stderr.strip()}")
    try:
        yield Path(made.stdout.strip())
    finally:
        subprocess.run(["losetup", "-d", made.stdout.strip()], check=False)


@pytest.fixture
def backing(tmp_path):
    """Four MiB of something else."""
    if not Path("/dev/loop-control").exists() or os.geteuid():
        pytest.skip("loop devices need root and the loop driver")
    file = tmp_path / "disk.img"
    file.write_bytes(noise(4 << 20, seed=8))
    return file


def test_a_real_disk_is_described_written_and_read_back(backing, tmp_path):
    """A loop device is fixed: it has to be forced; then it holds the image and no rest of the old end."""
    data = noise((2 << 20) + 5120, seed=5, holes=[(1 << 20, (1 << 20) + 300_000)])
    (tmp_path / "base.img").write_bytes(data)
    with loop_device(backing) as path:
        medium = describe(path, Machine())
        assert medium.size == 4 << 20
        assert refused(medium, len(data))[0] == "not_removable"
        check(medium, len(data), force_non_removable=True)
        with OpenMedium.open(medium) as sink:
            written = write_image(Image.open(tmp_path / "base.img"), sink, lambda *_: None, Forgetful())
            verify(written.ranges, sink, lambda *_: None)
    assert backing.read_bytes()[: len(data)] == data
    assert not any(backing.read_bytes()[3 << 20 :])


def test_a_real_disk_in_use_read_only_or_behind_a_file_is_refused(backing):
    """O_EXCL, the kernel's read-only flag, and the file of a loop device."""
    with loop_device(backing) as path:
        with OpenMedium.open(describe(path, Machine())), pytest.raises(MediumRefused) as raised:
            OpenMedium.open(describe(path, Machine()))
        assert raised.value.reason == "in_use"
        with pytest.raises(MediumRefused, match="in use by /dev/loop"):
            describe(backing, Machine())
    with loop_device(backing, "--read-only") as path:
        assert refused(describe(path, Machine()), 1, force_non_removable=True)[0] == "read_only"


def test_the_disk_of_this_machine_is_refused():
    """Whatever is forced; where the root is no disk there is nothing to ask."""
    number = Path("/").stat().st_dev
    try:
        disk = Machine().disk(os.major(number), os.minor(number))
    except MediumRefused:
        pytest.skip("the root file system of this machine is on no disk")
    assert refused(Medium(Path("/dev") / disk.whole, disk, disk.size), force_non_removable=True)[0] in (
        "system",
        "partition",
    )
