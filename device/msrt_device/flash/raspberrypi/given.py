"""The image that the user gives: two partitions, and what of Raspberry Pi OS is on them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msrt.errors import CallerError
from msrt_device.flash.raspberrypi.boot import FileBytes
from msrt_device.flash.raspberrypi.ext4 import Ext4
from msrt_device.flash.volumes.fat import FatVolume
from msrt_device.flash.volumes.partitions import Partition, partitions
from msrt_device.flash.writing.image import Image

__all__ = ["Given", "NotRaspberryPiOs", "look_at", "unpack"]

PIECE: Final = 1 << 20
"""No cut of an image lies within one."""
ZEROS: Final = bytes(PIECE)
PYTHONS: Final = {"bookworm": "3.11", "trixie": "3.13"}
AARCH64: Final = b"\xb7\x00"
"""Its number in an ELF header, at byte 18."""


class NotRaspberryPiOs(CallerError):
    """The image given is not one that this target can make a device of."""

    code = "not_raspberry_pi_os"
    hint = "give the 64-bit Raspberry Pi OS (Lite is enough), Bookworm or Trixie, as it is on raspberrypi.com"


@dataclass(frozen=True)
class Given:
    """What was found."""

    release: str
    python: str
    first_boot: str
    """`cloud-init` or `firstrun`."""
    boot: Path
    """Its FAT file system, in a file."""
    root: Path
    """Its ext4."""


def unpack(path: Path, folder: Path, progress: Callable[[int, int], None]) -> Path:
    """The raw image in `folder`, without its zeros. Raises BadImage."""
    image, out, done = Image.open(path), folder / "given.img", 0
    source, buffer = image.source(), memoryview(bytearray(PIECE))
    try:
        with out.open("wb") as file:
            while count := source.read_at(done, buffer):
                if bytes(buffer[:count]) != ZEROS[:count]:
                    file.write(buffer[:count])
                else:
                    file.seek(count, os.SEEK_CUR)
                done += count
                progress(done, image.size)
            file.truncate(done)
    finally:
        source.close()
    return out


def look_at(raw: Path, folder: Path) -> Given:
    """Take the image apart into files in `folder`. Raises NotRaspberryPiOs, ToolFailed, BadImage."""
    fd = os.open(raw, os.O_RDONLY | os.O_CLOEXEC)
    try:
        medium = FileBytes(fd)
        table = partitions(medium)
        volume = FatVolume.open(medium, table[0]) if len(table) == 2 else None
        if volume is None or not {"cmdline.txt", "config.txt"} <= set(volume.names()):
            raise NotRaspberryPiOs(f"{raw.name} has not the two partitions of Raspberry Pi OS, boot files and root")
        boot, root = folder / "boot.img", folder / "root.img"
        _cut(fd, table[0], boot)
        _cut(fd, table[1], root)
    finally:
        os.close(fd)
    raw.unlink()  # it was unpacked here, and may be large
    files = Ext4(root)
    found = re.search(r"^VERSION_CODENAME=(\w+)$", files.text("/usr/lib/os-release"), re.MULTILINE)
    release = found[1] if found else "none"
    if release not in PYTHONS or not files.has("/etc/rpi-issue"):
        raise NotRaspberryPiOs(f"the image's root is not Raspberry Pi OS of a release known here: {release}")
    if files.read("/usr/bin/dpkg")[18:20] != AARCH64:
        raise NotRaspberryPiOs("the image is not the 64-bit one")
    if not files.has(f"/usr/bin/python{PYTHONS[release]}"):
        raise NotRaspberryPiOs(f"the image has no Python {PYTHONS[release]}")
    if files.has("/usr/bin/cloud-init"):
        return Given(release, PYTHONS[release], "cloud-init", boot, root)
    if files.has("/usr/lib/raspberrypi-sys-mods/imager_custom"):
        return Given(release, PYTHONS[release], "firstrun", boot, root)
    raise NotRaspberryPiOs("the image has neither cloud-init nor what firstrun.sh calls: its settings would be ignored")


def _cut(fd: int, part: Partition, out: Path) -> None:
    with out.open("wb") as file:
        for at in range(0, part.size, PIECE):
            data = os.pread(fd, min(PIECE, part.size - at), part.offset + at)
            if data != ZEROS[: len(data)]:
                file.seek(at)
                file.write(data)
        file.truncate(part.size)
