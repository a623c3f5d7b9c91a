"""Boot entries and their counters, as systemd-boot keeps them: the state of a trial is in the file's name. Pure.

    msrt-a.conf        in force
    msrt-b+3.conf      on trial, three starts left
    msrt-b+1-2.conf    two were made; with `+0` it is passed over

The boot loader counts down before it starts an entry (Boot Loader Specification, "Boot counting"), and takes of the
entries that have starts left, or no counter, the one with the highest `version`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ["BootEntry", "in_force", "parse_entries"]

_NAME: Final = re.compile(r"msrt-([ab])(?:\+(\d+)(?:-(\d+))?)?\.conf\Z")


@dataclass(frozen=True)
class BootEntry:
    """One slot's entry."""

    slot: str
    left: int | None = None
    """Starts that are left; None: it is not on trial."""
    done: int = 0
    """Starts that were made."""

    @property
    def name(self) -> str:
        if self.left is None:
            return f"msrt-{self.slot}.conf"
        return f"msrt-{self.slot}+{self.left}{f'-{self.done}' if self.done else ''}.conf"


def parse_entries(names: Iterable[str]) -> list[BootEntry]:
    """Ours of the files in loader/entries; a power cut in a rename may leave both names of one slot."""
    found = (_NAME.fullmatch(name) for name in names)
    return [
        BootEntry(one[1], int(one[2]) if one[2] is not None else None, int(one[3] or 0))
        for one in found
        if one is not None
    ]


def in_force(entries: Iterable[BootEntry], versions: dict[str, int]) -> str:
    """The slot that starts when no trial does: without a counter, the highest `version`. Empty: none."""
    good = [entry.slot for entry in entries if entry.left is None]
    return max(good, key=lambda slot: versions.get(slot, 0), default="")
