"""The living devices that one selector names, kept as an index: a round of 100,000 candidates is drawn in milliseconds.

A view is made once and follows what edges report. What was said of devices is looked at with the next question: one
report or a thousand between two draws cost what changed, and where much did, one sorting.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from msrt.learning.history import Seen
from msrt.learning.selection import Wanted, key_of, places

__all__ = ["Crowd", "Pool"]

Keys: TypeAlias = NDArray[np.uint64]
FEW: Final = 64
"""So many changes, or this part of all, are put in their places; of more the order is made anew."""


class Crowd:
    """`name_of` gives a device's name while it lives and the selector names it, else None.

    A collection of node ids, in the order of their names: a node's place in it is its index in a round.
    """

    def __init__(self, name_of: Callable[[str], str | None], nodes: Iterable[str]) -> None:
        self._name_of = name_of
        self._due = set(nodes)
        self._names: dict[str, str] = {}
        self._order: list[tuple[str, str]] = []
        self._keys: Keys = np.empty(0, np.uint64)

    def touch(self, nodes: Iterable[str]) -> None:
        """Something was said of these."""
        self._due.update(nodes)

    def settle(self) -> None:
        """Look at those of whom something was said."""
        gone, come = [], []
        for node in self._due:
            name, before = self._name_of(node), self._names.get(node)
            if name == before:
                continue
            if before is not None:
                gone.append((before, node))
                del self._names[node]
            if name is not None:
                come.append((name, node))
                self._names[node] = name
        self._due.clear()
        if gone or come:  # somebody may draw from what it was, beside this
            few = len(gone) + len(come) <= max(FEW, len(self._order) // FEW)
            self._order, self._keys = self._changed(sorted(gone), sorted(come)) if few else self._anew()

    def _anew(self) -> tuple[list[tuple[str, str]], Keys]:
        order = sorted((name, node) for node, name in self._names.items())
        return order, np.fromiter((key_of(node) for _, node in order), np.uint64, len(order))

    def _changed(self, gone: list[tuple[str, str]], come: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], Keys]:
        order, keys = self._order.copy(), self._keys
        at = [bisect_left(order, entry) for entry in gone]
        for place in reversed(at):
            del order[place]
        keys = np.delete(keys, at)
        at = [bisect_left(order, entry) for entry in come]
        for place, entry in zip(reversed(at), reversed(come), strict=True):
            order.insert(place, entry)
        return order, np.insert(keys, at, np.array([key_of(node) for _, node in come], np.uint64))

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, node: object) -> bool:
        return node in self._names

    def __iter__(self) -> Iterator[str]:
        return (node for _, node in self._order)

    def pool(self, without: Collection[str] = ()) -> Pool:
        """What a draw is made from, as it is now: all but some."""
        barred = [bisect_left(self._order, (self._names[node], node)) for node in without if node in self._names]
        here = np.delete(np.arange(len(self._order)), barred) if barred else None
        return Pool(self._order, self._keys, here)


@dataclass(frozen=True)
class Pool:
    """Candidates of one draw; it never changes. `here`: the places of those who may be drawn, None for all."""

    order: Sequence[tuple[str, str]]
    keys: Keys
    here: NDArray[np.intp] | None

    def draw(self, seen: Mapping[str, Seen], wanted: Wanted, job: str, number: int) -> dict[str, int]:
        """Whom the round asks, with their places among all. Blocking, where it looks at what nodes showed."""
        keys, order, here = self.keys, self.order, self.here
        if here is None:
            chosen = places((node for _, node in order), keys, seen, wanted, job, number)
        else:
            nodes = (order[at][1] for at in here.tolist())
            chosen = here[places(nodes, keys[here], seen, wanted, job, number)]
        return {order[at][1]: at for at in chosen.tolist()}
