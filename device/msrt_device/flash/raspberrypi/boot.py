"""A boot partition that is mounted nowhere becomes a slot's and a board's: written, synced, read back, compared."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from msrt.errors import InvalidImage, NotFound
from msrt_device.flash.identity.medium import SettingNotTaken
from msrt_device.flash.identity.settings import IdentitySettings
from msrt_device.flash.raspberrypi.seeds import SEED_FILE, Seed, command_line, render
from msrt_device.flash.volumes.fat import FatVolume
from msrt_device.flash.volumes.partitions import Bytes, Partition, partitions
from msrt_device.flash.writing.medium import Sink

__all__ = ["FileBytes", "prepare_partition", "seed_medium", "seed_volume"]

CMDLINE = "cmdline.txt"
OURS = ("user-data", "network-config", "meta-data", "firstrun.sh")


class FileBytes:
    """An open file or partition by bytes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = os.lseek(fd, 0, os.SEEK_END)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def write(self, offset: int, data: memoryview) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self._fd, data[done:], offset + done)

    def sync(self) -> None:
        """Onto the medium, and out of the cache, so that what is read next comes from there."""
        os.fsync(self._fd)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)


def prepare_partition(partition: Path, slot: str, board: IdentitySettings) -> None:
    """The boot partition of one slot. Raises InvalidImage (none of ours), SettingNotTaken, VolumeFull, OSError."""
    fd = os.open(partition, os.O_RDWR | os.O_CLOEXEC)
    try:
        medium = FileBytes(fd)
        seed_volume(medium, Partition(0, 0, medium.size, ""), slot, board, medium.sync)
    finally:
        os.close(fd)


def seed_medium(medium: Sink, board: IdentitySettings) -> bool:
    """Both slots of a whole medium, as far as they hold a system; whether this is a medium of a Raspberry Pi at all.

    Raises SettingNotTaken, VolumeFull, VolumeDamaged.
    """
    found = False
    for where in partitions(medium):
        slot = where.name.removeprefix("boot-")
        volume = FatVolume.open(medium, where) if slot in {"a", "b"} and slot != where.name else None
        if volume is not None and SEED_FILE in volume.names():
            seed_volume(medium, where, slot, board, medium.sync)
            found = True
    return found


def seed_volume(medium: Bytes, where: Partition, slot: str, board: IdentitySettings, sync: Callable[[], None]) -> None:
    """Raises what the two above raise."""
    volume = FatVolume.open(medium, where)
    if volume is None:
        raise InvalidImage("the boot partition has no FAT file system", hint="make it by msrt device image raspberrypi")
    try:
        seed = msgspec.json.decode(volume.read(SEED_FILE), type=Seed)
        before = volume.read(CMDLINE).decode("utf-8", "replace")
    except (msgspec.ValidationError, msgspec.DecodeError, NotFound) as error:
        raise InvalidImage(f"the boot partition is none of msrt's: {error}") from None
    files = render(board, seed) | {CMDLINE: command_line(before, slot, board, seed).encode()}
    for name in OURS:
        if name not in files:
            volume.remove(name)  # for the other kind of first boot: it would be ignored without a word
    for name, data in files.items():
        volume.write(name, data)
    sync()
    again = FatVolume.open(medium, where)
    names = again.names() if again is not None else []
    lost = [name for name, data in files.items() if name not in names or again is None or again.read(name) != data]
    if lost:
        raise SettingNotTaken(dict.fromkeys(lost, "all of it"), {})
