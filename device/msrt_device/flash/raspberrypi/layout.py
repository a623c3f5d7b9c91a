"""The image: what the boot loader reads first, two slots of which one is filled, an identity, the agent's state.

    autoboot  16 MiB  FAT    autoboot.txt, config.txt (no partition boots without one), what updates note
    boot-a, boot-b    FAT    as in the image given, and as large: partitions 2 and 3, which autoboot.txt names
    msrtid    16 MiB  FAT    identity.toml                                                /etc/msrt/identity
    root-a, root-b    ext4   one runs, the other takes the next system                    /
    data              ext4   as large as the medium from the first boot on                /var/lib/msrt

GPT: boot loaders in EEPROM (Raspberry Pi 4, 400, 5, CM4, CM5) read it; older boards are not meant.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from msrt.errors import InvalidConfig
from msrt_device.flash.identity.settings import IdentitySettings
from msrt_device.flash.linux.layout import MIB, Partition, copy_in, make_data, make_fat, of_nobody, write_table
from msrt_device.flash.linux.run import run
from msrt_device.flash.raspberrypi.boot import FileBytes, seed_volume
from msrt_device.flash.raspberrypi.given import Given
from msrt_device.flash.raspberrypi.seeds import PACKAGE, SEED_FILE, Seed
from msrt_device.flash.volumes.fat import FatVolume
from msrt_device.flash.volumes.partitions import Partition as Place
from msrt_device.updater.autoboot import BOOT_PARTITIONS, render
from msrt_device.updater.tryboot import MEMBERS

__all__ = ["fill_boot", "pack_system", "partitions", "write_image"]

SMALL: Final = 16 * MIB
DATA: Final = 64 * MIB
FAT_TYPE: Final = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
ROOT_TYPE: Final = "B921B045-1DF0-41C3-AF44-4C6F280D3FAE"
LINUX_TYPE: Final = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
NAME: Final = "raspberrypi"


def partitions(boot: int, root: int) -> tuple[Partition, ...]:
    """In the order in which they lie; sizes in bytes."""
    table = (
        Partition("autoboot", SMALL, FAT_TYPE),
        Partition("boot-a", boot, FAT_TYPE),
        Partition("boot-b", boot, FAT_TYPE),
        Partition("msrtid", SMALL, FAT_TYPE),
        Partition("root-a", root, ROOT_TYPE),
        Partition("root-b", root, ROOT_TYPE),
        Partition("data", DATA, LINUX_TYPE),
    )
    numbers = {one.name: number for number, one in enumerate(table, 1)}
    assert all(numbers[f"boot-{slot}"] == number for slot, number in BOOT_PARTITIONS.items())
    return table


def fill_boot(given: Given, package: bytes, ssh_keys: tuple[str, ...], slot: str = "a") -> None:
    """The agent's package and the first boot of any board into its boot partition. Raises VolumeFull, InvalidImage."""
    fd = os.open(given.boot, os.O_RDWR | os.O_CLOEXEC)
    try:
        medium = FileBytes(fd)
        where = Place(0, 0, medium.size, "")
        volume = FatVolume.open(medium, where)
        assert volume is not None, "it was looked at"
        seed = Seed(first_boot=given.first_boot, ssh_keys=ssh_keys)
        volume.write(PACKAGE, package)
        volume.write(SEED_FILE, msgspec.json.encode(seed))
        seed_volume(medium, where, slot, IdentitySettings(), medium.sync)
        again = FatVolume.open(medium, where)
        if again is None or again.read(PACKAGE) != package:
            raise InvalidConfig("the agent's package does not read back from the boot partition")
    finally:
        os.close(fd)


def write_image(given: Given, root: int, out: Path, progress: Callable[[int, int], None]) -> None:
    """The system in slot a; root-a and root-b have `root` bytes each. Raises ToolFailed."""
    table = partitions(-(-given.boot.stat().st_size // MIB) * MIB, root)
    starts = write_table(out, table)
    steps: tuple[Callable[[], object], ...] = (
        lambda: _autoboot(out, starts["autoboot"]),
        lambda: copy_in(given.boot, out, starts["boot-a"], zeros=True),
        lambda: make_fat(out, starts["msrtid"], SMALL, "MSRTID", 16),
        lambda: copy_in(given.root, out, starts["root-a"], zeros=True),
        lambda: make_data(out, starts["data"], DATA),
    )
    for done, step in enumerate(steps):
        progress(done, len(steps))
        step()
    progress(len(steps), len(steps))


def _autoboot(out: Path, start: int) -> None:
    make_fat(out, start, SMALL, "AUTOBOOT", 16)
    factory = json.dumps({"version": f"factory-{version('msrt')}"})
    for name, text in (("autoboot.txt", render("a")), ("config.txt", ""), ("a.json", factory)):
        draft = out.with_name("draft")
        draft.write_text(text)
        run(["mcopy", "-i", f"{out}@@{start}", str(draft), f"::{name}"])
        draft.unlink()


def pack_system(given: Given, out: Path) -> None:
    """An image to be sent over the air: what `msrt_device.updater.tryboot` writes to the other slot.

    Raises InvalidConfig for a release whose first boot ends with a restart: it would end the trial.
    """
    if given.first_boot != "cloud-init":
        raise InvalidConfig(
            f"a system of {given.release} cannot be sent over the air: its first boot ends with a restart, which ends "
            "the trial",
            hint="give the image of a release that has cloud-init: Trixie or newer",
        )
    said = out.with_name(out.name + ".json")
    said.write_text(json.dumps({"name": NAME, "format": 1, "release": given.release}) + "\n")
    try:
        with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as archive:
            for member, path in zip(MEMBERS, (said, given.boot, given.root), strict=True):
                archive.add(path, member, filter=of_nobody)
    finally:
        said.unlink()
