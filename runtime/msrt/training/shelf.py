"""What a node keeps to itself between rounds: error feedback, control variates, the head of its own.

A round that is trained again shall begin where it began the first time: each round leaves a state of its own, and
begins with the newest of an *earlier* one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

__all__ = ["Keeper", "Memory", "Shelf"]


class Keeper(Protocol):
    """Where one node's states lie, by name and round."""

    def before(self, name: str, round_: int) -> bytes | None:
        """The newest of an earlier round; those before it are forgotten."""

    def keep(self, name: str, round_: int, state: bytes) -> None: ...


class Memory:
    """In memory: for simulations."""

    def __init__(self) -> None:
        self._states: dict[str, dict[int, bytes]] = {}

    def before(self, name: str, round_: int) -> bytes | None:
        states = self._states.get(name, {})
        earlier = sorted(number for number in states if number < round_)
        for number in earlier[:-1]:
            del states[number]
        return states[earlier[-1]] if earlier else None

    def keep(self, name: str, round_: int, state: bytes) -> None:
        self._states.setdefault(name, {})[round_] = state


class Shelf:
    """A file each, `NAME-ROUND.f32`, whole or not there."""

    def __init__(self, work: Path) -> None:
        self.work = work

    def _all(self, name: str) -> list[tuple[int, Path]]:
        return sorted((int(path.stem.rpartition("-")[2]), path) for path in self.work.glob(f"{name}-*.f32"))

    def before(self, name: str, round_: int) -> bytes | None:
        earlier = [entry for entry in self._all(name) if entry[0] < round_]
        for _, path in earlier[:-1]:
            path.unlink()
        return earlier[-1][1].read_bytes() if earlier else None

    def newest(self, name: str, most: int) -> tuple[int, bytes] | None:
        """(round, state) of the last one up to round `most`; nothing is forgotten."""
        found = [entry for entry in self._all(name) if entry[0] <= most]
        return (found[-1][0], found[-1][1].read_bytes()) if found else None

    def keep(self, name: str, round_: int, state: bytes) -> None:
        target = self.work / f"{name}-{round_}.f32"
        fresh = target.with_suffix(".new")
        fresh.write_bytes(state)
        fresh.replace(target)
