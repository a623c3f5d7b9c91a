"""What single nodes said of their part of a sum, which shows neither: loss, accuracy, seconds. Four bytes each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
import numpy as np

from msrt.buffers import Buffer

__all__ = ["Judged", "Note", "pack", "unpack", "worst_decile", "worst_first"]

FIELDS: Final = ("loss", "accuracy", "seconds")


class Note(msgspec.Struct, frozen=True):
    """One node's report of a round; NaN where it said nothing."""

    loss: float = math.nan
    accuracy: float = math.nan
    seconds: float = math.nan

    @classmethod
    def of(cls, metrics: Mapping[str, float]) -> Note:
        """What the metrics of its update say."""
        return cls(*(float(metrics.get(name, math.nan)) for name in FIELDS))


class Judged(msgspec.Struct, frozen=True):
    """What one node said of the model when it last took part; with [train] keep_local of its own."""

    round: int
    samples: int
    loss: float | None = None
    accuracy: float | None = None
    seconds: float | None = None
    epsilon: float | None = None
    """Spent of its own privacy budget, where it is the nodes that add noise."""

    @classmethod
    def of(cls, number: int, included: Mapping[str, int], notes: Mapping[str, Note]) -> dict[str, Judged]:
        """Of the nodes in a round, by node."""
        return {
            node: cls(number, included[node], *(value if math.isfinite(value) else None for value in _values(note)))
            for node, note in notes.items()
            if node in included
        }


def worst_first(judged: Mapping[str, Judged]) -> list[str]:
    """Nodes by what the model is worth to them; who did not say comes last."""
    return sorted(judged, key=lambda node: (2.0 if (worth := judged[node].accuracy) is None else worth, node))


def _values(note: Note) -> tuple[float, float, float]:
    return note.loss, note.accuracy, note.seconds


def pack(notes: Iterable[Note]) -> bytes:
    """In the order of the nodes in the meta beside it."""
    rows = [_values(note) for note in notes]
    return np.array(rows, "<f4").tobytes()


def unpack(data: Buffer, nodes: Iterable[str]) -> dict[str, Note]:
    """Notes by node; nothing where they are not as many as the nodes."""
    names = list(nodes)
    if len(data) != 4 * len(FIELDS) * len(names):
        return {}
    rows = np.frombuffer(data, "<f4").reshape(-1, len(FIELDS)).tolist()
    return {name: Note(*row) for name, row in zip(names, rows, strict=True)}


def worst_decile(notes: Iterable[Note]) -> float | None:
    """Mean accuracy of the tenth of the nodes that the model serves worst (at least one); None where none said it."""
    known = sorted(note.accuracy for note in notes if math.isfinite(note.accuracy))
    worst = known[: max(1, len(known) // 10)]
    return sum(worst) / len(worst) if worst else None
