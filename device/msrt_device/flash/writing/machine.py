"""Which disk a device node is, and what uses it: read from /sys and /proc, and from nowhere else.

`Machine(root)` is the seam: a test hands it a tree of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msrt_device.flash.writing.errors import MediumRefused

__all__ = ["Disk", "Machine", "Use"]

SECTOR: Final = 512
"""Of /sys/block/*/size, whatever the disk's own sectors are."""
SYSTEM: Final = frozenset({"/", "/usr", "/boot", "/boot/efi", "/boot/firmware", "/efi", "/etc", "/var", "/home"})
DEPTH: Final = 8
"""Disks on disks (LUKS on LVM on RAID) that are followed."""


@dataclass(frozen=True)
class Use:
    """Something that uses the disk or a part of it."""

    kind: str
    """system, mounted, swap, holder."""
    part: str
    """Device that is used: sdb1."""
    where: str
    """Mount point, or the device on top of it."""


@dataclass(frozen=True)
class Disk:
    """A block device as the kernel describes it."""

    name: str
    """sdb; a slash in it is the kernel's exclamation mark."""
    size: int
    """Bytes."""
    model: str
    """Vendor and model, as people know it; empty where it says none."""
    serial: str
    removable: bool
    """It can be taken out: a card, or anything on USB."""
    read_only: bool
    whole: str
    """The disk that it is a partition of; its own name where it is none."""
    uses: tuple[Use, ...]

    @property
    def title(self) -> str:
        """Model and size, for people."""
        return f"{self.model or 'a disk without a name'}, {self.size / 1e9:.1f} GB"


class Machine:
    """`root` holds sys/ and proc/."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._sys, self._proc = root / "sys", root / "proc"

    def disk(self, major: int, minor: int) -> Disk:
        """The block device of that number. Raises MediumRefused where the kernel knows none."""
        link = self._sys / "dev" / "block" / f"{major}:{minor}"
        if not link.exists():
            raise MediumRefused("kind", f"the kernel knows no block device {major}:{minor}")
        own = link.resolve()
        whole = own.parent if (own / "partition").exists() else own
        kind = self._text(whole / "device" / "type")
        slot = self._text(whole / "removable") == "1"
        bus = "/usb" in str(whole.relative_to(self._sys.resolve())) or (kind == "SD" and "/mmc_host" in str(whole))
        vendor, model = self._text(whole / "device" / "vendor"), self._text(whole / "device" / "model")
        name = model or self._text(whole / "device" / "name") or self._text(whole / "loop" / "backing_file")
        return Disk(
            name=own.name.replace("!", "/"), size=int(self._text(own / "size") or 0) * SECTOR,
            model=f"{vendor} {name}".strip() if not vendor.startswith("0x") else name,
            serial=self._text(whole / "device" / "serial") or self._text(whole / "serial"),
            removable=slot or bus, read_only="1" in (self._text(own / "ro"), self._text(whole / "ro")),
            whole=whole.name.replace("!", "/"), uses=tuple(self._uses(own)),
        )  # fmt: skip

    def loop_over(self, file: Path) -> str:
        """The loop device that shows this file, empty if none does."""
        for backing in sorted((self._sys / "block").glob("loop*/loop/backing_file")):
            if self._text(backing) == str(file.resolve()):
                return f"/dev/{backing.parent.parent.name}"
        return ""

    # --- what uses it ------------------------------------------------------------------------------------------

    def _uses(self, own: Path) -> list[Use]:
        parts = self._family(own, 0)
        numbers = {self._text(part / "dev"): part.name for part in parts}
        names = {f"/dev/{part.name.replace('!', '/')}": part.name for part in parts}
        mapped = {f"/dev/mapper/{dm}": part.name for part in parts if (dm := self._text(part / "dm" / "name"))}
        uses = []
        for number, point, source in self._mounts():
            part = numbers.get(number) or (names | mapped).get(source)
            if part is not None:
                uses.append(Use("system" if point in SYSTEM else "mounted", part, point))
        uses += [Use("swap", part, "swap") for path in self._swaps() if (part := (names | mapped).get(path))]
        held = [(part, one) for part in parts for one in _entries(part / "holders")]
        uses += [Use("holder", part.name, f"/dev/{one.name}") for part, one in held]
        order = ("system", "swap", "mounted", "holder")
        return sorted(uses, key=lambda use: order.index(use.kind))

    def _family(self, own: Path, depth: int) -> list[Path]:
        """The device, its partitions, and what stands on any of them."""
        if depth > DEPTH:
            return []
        parts = [own, *(entry for entry in _entries(own) if (entry / "partition").exists())]
        above = [one.resolve() for part in parts for one in _entries(part / "holders")]
        return [*parts, *(found for one in above for found in self._family(one, depth + 1))]

    def _mounts(self) -> list[tuple[str, str, str]]:
        """(major:minor, mount point, source) of every mount: proc(5), /proc/self/mountinfo."""
        out = []
        for line in self._text(self._proc / "self" / "mountinfo").splitlines():
            left, dash, right = line.partition(" - ")
            fields, rest = left.split(" "), right.split(" ")
            if dash and len(fields) > 4 and len(rest) > 1:
                out.append((fields[2], _plain(fields[4]), _plain(rest[1])))
        return out

    def _swaps(self) -> list[str]:
        return [_plain(line.split()[0]) for line in self._text(self._proc / "swaps").splitlines()[1:] if line.strip()]

    @staticmethod
    def _text(path: Path) -> str:
        try:
            return path.read_text("utf-8", "replace").strip()
        except OSError:
            return ""


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _plain(text: str) -> str:
    r"""The kernel writes a space as \040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
