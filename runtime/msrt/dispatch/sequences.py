"""Which worker a stateful sequence lives on. Its state is there and nowhere else: with the worker it is lost."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["Sequences"]


class Sequences:
    """Sequence (model, id) to (worker, version), the least recently used first. Bounded in number and in idle time."""

    def __init__(self, most: int, idle_s: float) -> None:
        self._most, self._idle_s = most, idle_s
        self._places: OrderedDict[tuple[str, str], tuple[str, int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    def place(self, model: str, sequence: str, now: float) -> tuple[str, int] | None:
        """Worker and version of a living sequence, which is used by asking; None if there is none."""
        self._expire(now)
        key = (model, sequence)
        found = self._places.get(key)
        if found is None:
            return None
        self._places[key] = (found[0], found[1], now)
        self._places.move_to_end(key)
        return found[0], found[1]

    def bind(self, model: str, sequence: str, worker: str, version: int, now: float) -> bool:
        """A sequence begins (or begins again) there. False when there are too many."""
        self._expire(now)
        key = (model, sequence)
        if key not in self._places and len(self._places) >= self._most:
            return False
        self._places[key] = (worker, version, now)
        self._places.move_to_end(key)
        return True

    def end(self, model: str, sequence: str) -> None:
        self._places.pop((model, sequence), None)

    def lost(self, worker: str) -> list[tuple[str, str]]:
        """The sequences that lived on a worker that is gone; they are forgotten."""
        gone = [key for key, place in self._places.items() if place[0] == worker]
        for key in gone:
            del self._places[key]
        return gone

    def _expire(self, now: float) -> None:
        while self._places:
            key, place = next(iter(self._places.items()))
            if now - place[2] < self._idle_s:
                return
            del self._places[key]
