"""A FAT12, FAT16 or FAT32 file system on a medium that is not mounted: the files of its root directory.

Whoever writes syncs the medium afterwards. The order of writes is no protection from a power cut: nothing boots from a
medium that is being prepared.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import islice
from typing import Final

from msrt.errors import LocalError, NotFound
from msrt_device.flash.volumes.entries import ENTRY, FREE, Entry, entries_for, label_of, parse
from msrt_device.flash.volumes.partitions import Bytes, Partition, Readable

__all__ = ["FatVolume", "VolumeDamaged", "VolumeFull", "label_at"]

_BPB: Final = struct.Struct("<11xHBHBHHBHHHII")
FREE_MASK: Final = 0x0FFFFFFF
"""FAT32 has four bits that belong to nobody."""
CLUSTER_LIMIT: Final = 128 * 1024


class VolumeFull(LocalError):
    """The file does not fit onto the FAT volume."""

    code = "volume_full"


class VolumeDamaged(LocalError):
    """A FAT volume contradicts itself."""

    code = "volume_damaged"
    hint = "flash the medium anew"


def label_at(medium: Readable, where: Partition) -> str:
    """The label of the volume in a partition, empty if there is none or it has none.

    Without its table: FAT32 has the label in the root directory's first cluster, where mkfs puts it.
    """
    layout = _layout(medium.read(where.offset, 512), where.size)
    if layout is None:
        return ""
    root, size = layout.root, layout.root_size
    if not root:
        if not 2 <= layout.root_cluster < layout.clusters + 2:
            return ""
        root, size = layout.data + (layout.root_cluster - 2) * layout.cluster, layout.cluster
    return label_of(medium.read(where.offset + root, size))


@dataclass(frozen=True)
class _Layout:
    sector: int
    cluster: int
    """Bytes of one."""
    fat: int
    """Offset of the first table, from the volume's beginning."""
    fat_size: int
    fats: int
    root: int
    """Offset of the root directory; FAT32: 0."""
    root_size: int
    root_cluster: int
    data: int
    """Offset of cluster 2."""
    clusters: int
    info: int
    """Offset of FAT32's count of free clusters; 0: there is none."""

    @property
    def bits(self) -> int:
        return 12 if self.clusters < 4085 else 16 if self.clusters < 65525 else 32


class FatVolume:
    """One volume. Its table is held in memory; every change is written at once."""

    def __init__(self, medium: Bytes, offset: int, layout: _Layout) -> None:
        self._medium, self._offset, self._layout = medium, offset, layout
        self._table = _unpack(self._get(layout.fat, layout.fat_size), layout)

    @classmethod
    def open(cls, medium: Bytes, where: Partition) -> FatVolume | None:
        """The volume in a partition, None if there is none."""
        layout = _layout(medium.read(where.offset, 512), where.size)
        return cls(medium, where.offset, layout) if layout is not None else None

    @property
    def label(self) -> str:
        """As in the root directory."""
        return label_of(self._root())

    def names(self) -> list[str]:
        return [entry.name for entry in parse(self._root())]

    def read(self, name: str) -> bytes:
        """Raises NotFound, VolumeDamaged."""
        entry = self._find(name)
        if entry is None or entry.folder:
            raise NotFound(f"there is no file {name} on the volume {self.label}")
        size = self._layout.cluster
        return b"".join(self._get(self._at(one), size) for one in self._chain(entry.cluster))[: entry.size]

    def write(self, name: str, data: bytes) -> None:
        """A new file, or another content for one that is there. Raises VolumeFull, CallerError, VolumeDamaged."""
        self.remove(name)
        root, size = self._root(), self._layout.cluster
        count = -(-len(data) // size)
        chain = self._free(count)
        for number, cluster in enumerate(chain):
            self._put(self._at(cluster), data[number * size : (number + 1) * size].ljust(size, b"\0"))
        new = entries_for(name, chain[0] if chain else 0, len(data), (entry.short for entry in parse(root)))
        self._link(chain)
        try:
            self._put_root(self._room(root, len(new) // ENTRY), new)
        except VolumeFull:
            self._set(dict.fromkeys(chain, 0))
            raise

    def remove(self, name: str, *, wipe: bool = True) -> bool:
        """Whether there was one. `wipe`: its bytes are overwritten with zeros."""
        entry = self._find(name)
        if entry is None or entry.folder:
            return False
        chain = self._chain(entry.cluster)
        for cluster in chain if wipe else ():
            self._put(self._at(cluster), bytes(self._layout.cluster))
        self._set(dict.fromkeys(chain, 0))
        first, last = entry.slots
        root = bytearray(self._root()[first * ENTRY : (last + 1) * ENTRY])
        root[::ENTRY] = bytes([FREE]) * (last - first + 1)
        self._put_root(first, bytes(root))
        return True

    # --- the root directory ------------------------------------------------------------------------------------

    def _find(self, name: str) -> Entry | None:
        return next((one for one in parse(self._root()) if one.name.lower() == name.lower()), None)

    def _root(self) -> bytes:
        return b"".join(self._get(offset, size) for offset, size in self._root_spans())

    def _root_spans(self) -> list[tuple[int, int]]:
        if self._layout.root:
            return [(self._layout.root, self._layout.root_size)]
        return [(self._at(one), self._layout.cluster) for one in self._chain(self._layout.root_cluster)]

    def _put_root(self, slot: int, data: bytes) -> None:
        at, done = slot * ENTRY, 0
        for offset, size in self._root_spans():
            if at < size and done < len(data):
                part = data[done : done + size - at]
                self._put(offset + at, part)
                done += len(part)
            at = max(0, at - size)

    def _room(self, root: bytes, count: int) -> int:
        """A run of free entries; FAT32's root directory grows by a cluster for it."""
        run = 0
        for slot in range(len(root) // ENTRY):
            run = run + 1 if root[slot * ENTRY] in (0, FREE) else 0
            if run == count:
                return slot - count + 1
        if self._layout.root:
            raise VolumeFull(f"the root directory of the volume {self.label} is full")
        grown = self._chain(self._layout.root_cluster)[-1]
        new = self._free(1)[0]
        self._put(self._at(new), bytes(self._layout.cluster))
        self._link([grown, new])
        return len(root) // ENTRY - run

    # --- clusters ----------------------------------------------------------------------------------------------

    def _chain(self, first: int) -> list[int]:
        end, out = self._layout.clusters + 2, []
        while 2 <= first < end:
            out.append(first)
            if len(out) > self._layout.clusters:
                raise VolumeDamaged("the volume's table runs in a circle")
            first = self._table[first]
        return out

    def _free(self, count: int) -> list[int]:
        unused = (one for one in range(2, self._layout.clusters + 2) if not self._table[one] & FREE_MASK)
        found = list(islice(unused, count))
        if len(found) < count:
            raise VolumeFull(f"the volume {self.label} has no room for {count * self._layout.cluster} bytes")
        return found

    def _link(self, chain: list[int]) -> None:
        if chain:
            mark = (1 << min(self._layout.bits, 28)) - 1
            self._set(dict(zip(chain, [*chain[1:], mark], strict=True)))

    def _set(self, changes: dict[int, int]) -> None:
        """Into every copy of the table, in whole sectors, and FAT32's count of free clusters."""
        if not changes:
            return
        for cluster, value in changes.items():
            keep = self._table[cluster] & 0xF0000000 if self._layout.bits == 32 else 0
            self._table[cluster] = keep | value
        sector, bits = self._layout.sector, self._layout.bits
        first = min(changes) * bits // 8 // sector * sector
        last = min(((max(changes) + 1) * bits // 8 // sector + 1) * sector, self._layout.fat_size)
        packed = _pack(self._table, self._layout, first, last)
        for copy in range(self._layout.fats):
            self._put(self._layout.fat + copy * self._layout.fat_size + first, packed)
        if self._layout.info and self._get(self._layout.info - 4, 4) == b"rrAa":
            free = sum(not value & FREE_MASK for value in self._table[2 : self._layout.clusters + 2])
            self._put(self._layout.info, struct.pack("<II", free, 0xFFFFFFFF))

    def _at(self, cluster: int) -> int:
        return self._layout.data + (cluster - 2) * self._layout.cluster

    def _get(self, offset: int, length: int) -> bytes:
        data = self._medium.read(self._offset + offset, length)
        if len(data) != length:
            raise VolumeDamaged("the volume is longer than its medium")
        return data

    def _put(self, offset: int, data: bytes) -> None:
        self._medium.write(self._offset + offset, memoryview(data))


def _layout(boot: bytes, room: int) -> _Layout | None:
    if len(boot) < 512 or boot[510:512] != b"\x55\xaa" or boot[0] not in (0xEB, 0xE9):
        return None
    sector, per, reserved, fats, roots, total16, _, size16, _, _, _, total32 = _BPB.unpack_from(boot)
    total = total16 or total32
    size = size16 or struct.unpack_from("<I", boot, 36)[0]
    if sector not in (512, 1024, 2048, 4096) or not per or per & (per - 1) or per * sector > CLUSTER_LIMIT:
        return None
    if not reserved or fats not in (1, 2) or not size or total * sector > room:
        return None
    root = (reserved + fats * size) * sector
    root_size = -(-roots * ENTRY // sector) * sector
    clusters = (total * sector - root - root_size) // (per * sector)
    width = 12 if clusters < 4085 else 16 if clusters < 65525 else 32
    if clusters < 1 or (clusters + 2) * width > size * sector * 8:
        return None
    wide = width == 32
    return _Layout(
        sector=sector, cluster=per * sector, fat=reserved * sector, fat_size=size * sector, fats=fats,
        root=0 if wide else root, root_size=root_size,
        root_cluster=struct.unpack_from("<I", boot, 44)[0] if wide else 0,
        data=root + root_size, clusters=clusters,
        info=struct.unpack_from("<H", boot, 48)[0] * sector + 488 if wide else 0,
    )  # fmt: skip


def _unpack(raw: bytes, layout: _Layout) -> list[int]:
    if layout.bits != 12:
        return list(memoryview(raw).cast("H" if layout.bits == 16 else "I"))
    count = layout.clusters + 2
    whole = int.from_bytes(raw[: -(-count * 12 // 8)], "little")
    return [whole >> 12 * number & 0xFFF for number in range(count)]


def _pack(table: list[int], layout: _Layout, first: int, last: int) -> bytes:
    """Bytes `first` to `last` of the table on disk."""
    if layout.bits != 12:
        width = layout.bits // 8
        part = table[first // width : last // width]
        return struct.pack(f"<{len(part)}{'H' if width == 2 else 'I'}", *part)
    whole = 0
    for number, value in enumerate(table):
        whole |= value << 12 * number
    return whole.to_bytes(layout.fat_size, "little")[first:last]
