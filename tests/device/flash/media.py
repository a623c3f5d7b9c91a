"""A medium in memory that may lose its power, and images to put on it."""

from __future__ import annotations

import lzma
import shutil
import struct
import subprocess

import numpy as np
import pytest
import zstandard

from msrt_device.flash.writing.blockmap import BLOCK
from msrt_device.flash.writing.grid import HEAD

__all__ = [
    "IDENTITY_AT",
    "MIB",
    "Medium",
    "PowerCut",
    "boots",
    "disk",
    "noise",
    "packed",
    "run",
    "tools",
    "volume_file",
]

MIB = 1 << 20
IDENTITY_AT = 3 * MIB
"""Where `disk` has its MSRTID."""
tools = pytest.mark.skipif(
    not all(shutil.which(tool) for tool in ("mkfs.vfat", "mcopy", "fsck.vfat", "sfdisk")),
    reason="needs dosfstools, mtools and fdisk",
)


class PowerCut(Exception):
    """The plug was pulled."""


class Medium:
    """A disk with a write-back cache: what was written since the last sync may be there or not, block by block."""

    def __init__(self, size, *, content=None, cut_after=None, zeroes=False, seed=0):
        self.size = size
        self.held = bytearray(content or bytes([0xA5]) * size)
        self.pending = []
        self.writes, self.syncs = 0, 0
        self._cut_after, self._zeroes = cut_after, zeroes
        self._random = np.random.default_rng(seed)

    def write(self, offset, data):
        assert offset + len(data) <= self.size
        for at in range(0, len(data), BLOCK):
            self.pending.append((offset + at, bytes(data[at : at + BLOCK])))
            self._tick()

    def zero(self, offset, length):
        if self._zeroes:
            self.pending.append((offset, bytes(length)))
        return self._zeroes

    def sync(self):
        self._tick()
        self._flush(self.pending)
        self.syncs += 1

    def read(self, offset, length):
        assert not self.pending, "what is read back was synced"
        return bytes(self.held[offset : offset + length])

    def _tick(self):
        self.writes += 1
        if self._cut_after is not None and self.writes > self._cut_after:
            kept = [one for one in self.pending if self._random.random() < 0.5]
            self._random.shuffle(kept)
            self._flush(kept)
            raise PowerCut

    def _flush(self, which):
        for offset, data in which:
            self.held[offset : offset + len(data)] = data
        self.pending = []


def boots(medium):
    """Whether firmware finds anything to start: a partition table, a boot sector or a loader in the first MiB, or the
    copy of the GPT at the medium's end."""
    return any(medium.held[:HEAD]) or bytes(medium.held[-512:]).startswith(b"EFI PART")


def noise(size, seed=0, holes=()):
    """Bytes that look like nothing else, with one partition in an MBR, and the copy of a GPT in the last sector.

    `holes` are (start, end).
    """
    data = bytearray(np.random.default_rng(seed).integers(1, 255, size, dtype=np.uint8).tobytes())
    data[446:512] = struct.pack("<4xB3xII", 0x83, 1, size // 512 - 1) + bytes(48) + b"\x55\xaa"
    for start, end in holes:
        data[start:end] = bytes(end - start)
    data[-512:-504] = b"EFI PART"
    return bytes(data)


def packed(path, data, kind):
    """The image in a file, packed; its path."""
    whole = path / f"base.img{kind}"
    pack = {"": bytes, ".zst": zstandard.ZstdCompressor().compress, ".xz": lambda one: lzma.compress(one, preset=0)}
    whole.write_bytes(pack[kind](data))
    return whole


def run(*argv, **more):
    return subprocess.run([str(one) for one in argv], check=True, capture_output=True, **more).stdout


def volume_file(path, bits, label="MSRTID"):
    sizes = {12: MIB, 16: 5 * MIB, 32: 34 * MIB}
    path.write_bytes(b"")
    with path.open("r+b") as file:
        file.truncate(sizes[bits])
    run("mkfs.vfat", "-F", bits, "-s", 1, "-n", label, path)
    return path


def disk(tmp_path, label="gpt", second="MSRTID"):
    """The bytes of an image with a partition table: an EFI partition, and MSRTID, or another volume, after it."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"")
    with path.open("r+b") as file:
        file.truncate(9 * MIB)
    table = (
        f"label: {label}\nstart=2048, size=2048, type={'uefi' if label == 'gpt' else 'ef'}\nstart=6144, size=10240\n"
    )
    run("sfdisk", "-q", path, input=table.encode())
    for start, name in ((1, "ESP"), (3, second)):
        data = volume_file(tmp_path / "part", 12 if name == "ESP" else 16, name).read_bytes()
        with path.open("r+b") as file:
            file.seek(start * MIB)
            file.write(data)
    return path.read_bytes()
