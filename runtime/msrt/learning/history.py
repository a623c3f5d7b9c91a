"""What the nodes of a job showed in its rounds: who asks some of them next, and weighs them, goes by it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from msrt.learning.control import Shares
from msrt.learning.notes import Note

__all__ = ["UNKNOWN", "History", "Seen"]

MEMORY: Final = 0.2
"""A node's reliability moves by so much of the way with each round that asked it."""
NOTHING: Final = Note()


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """What one node showed so far."""

    asked: int = 0
    """The newest round that asked it; 0: none did."""
    counted: int = 0
    """The newest round that its update is in."""
    samples: int = 0
    loss: float = math.nan
    seconds: float = math.nan
    reliability: float = 1.0
    """Share of the last rounds that it answered; one that is new is trusted."""

    def after(self, number: int, samples: int, note: Note) -> Seen:
        """The round `number` asked it; no samples: it is not in it."""
        reliability = self.reliability + MEMORY * (bool(samples) - self.reliability)
        if not samples:
            return msgspec.structs.replace(self, asked=number, reliability=reliability)
        return Seen(number, number, samples, note.loss, note.seconds, reliability)


UNKNOWN: Final = Seen()


class History:
    """Of one job, up to the last round that is over."""

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}
        self._samples = 0
        """Of all nodes that ever were in a round."""

    def shares(self, included: Mapping[str, int]) -> Shares:
        """What the nodes of a round weigh among all that ever were in one."""
        before = float(self._samples)
        fresh = sum(samples - self.seen.get(node, UNKNOWN).samples for node, samples in included.items())
        return Shares(float(sum(included.values())), before, before + fresh)

    def after(
        self, number: int, asked: Iterable[str], included: Mapping[str, int], notes: Mapping[str, Note]
    ) -> dict[str, Seen]:
        """What a round showed of those that it asked; to be settled once it is over."""
        return {
            node: self.seen.get(node, UNKNOWN).after(number, included.get(node, 0), notes.get(node, NOTHING))
            for node in sorted({*asked, *included})
        }

    def settle(self, rows: Mapping[str, Seen]) -> None:
        """These are the newest."""
        for node, row in rows.items():
            self._samples += row.samples - self.seen.get(node, UNKNOWN).samples
            self.seen[node] = row
