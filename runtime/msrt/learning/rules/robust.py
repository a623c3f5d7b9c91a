"""All updates of a round at once, in the memory of a few blocks.

Nothing is decoded before the end. Payloads that lie on the disk (`msrt.training.spool`) are then read through by blocks
of coordinates, a part of each, and `release` lets their pages go again after every block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from msrt.buffers import Buffer
from msrt.errors import BadUpdate
from msrt.learning.aggregate import RunningSum
from msrt.learning.compress import Codec
from msrt.learning.compress.codec import BLOCK
from msrt.learning.rules import coordinates
from msrt.learning.rules.distances import Matrix, bulyan_set, krum, squared_distances
from msrt.learning.rules.rule import Rule
from msrt.learning.vector import Vector

__all__ = ["Robust"]

ROOM: Final = 2 << 20
"""Elements of all nodes together that are decoded at once: 8 MiB, and a few times that while they are sorted."""
OPEN: Final = 32
"""Payloads that are read before their pages are let go: the kernel brings more of each than is asked for."""


class Robust:
    """As `RunningSum`, for rules that need all updates. Every node counts the same, whatever weight it is added with.

    `release` is called after each block and within it. The payloads must stay as they are until `mean` was called.
    """

    def __init__(self, rule: Rule, size: int, release: Callable[[], None] = lambda: None) -> None:
        self.rule, self.size, self._release = rule, size, release
        self._rows: list[tuple[Buffer, Codec, np.float32]] = []

    @property
    def weight(self) -> float:
        """How many were added."""
        return float(len(self._rows))

    def add(self, payload: Buffer, codec: Codec, weight: float, scale: float = 1.0) -> None:
        """Add a checked payload, shortened to `scale` of its length. Raises BadUpdate for a wrong length or scale."""
        if not (weight > 0 and 0 <= scale <= 1):
            raise BadUpdate(f"an update with a weight of {weight} and a scale of {scale}")
        codec.fits(payload)
        self._rows.append((payload, codec, np.float32(scale)))

    def mean(self) -> Vector:
        """What the rule makes of what was added, a new vector. Raises BadUpdate when that is too little. Blocking."""
        count, rule = len(self._rows), self.rule
        if count < max(1, rule.least):
            raise BadUpdate(f"{rule.kind} of {count} updates, it needs {max(1, rule.least)}")
        match rule.kind:
            case "median":
                return self._each(range(count), coordinates.median)
            case "trimmed":
                cut = rule.cut(count)
                return self._each(range(count), lambda rows, out: coordinates.trimmed(rows, cut, out))
            case "bulyan":
                chosen = bulyan_set(self._distances(), rule.liars)
                near = len(chosen) - 2 * rule.liars
                return self._each(chosen, lambda rows, out: coordinates.near_median(rows, near, out))
            case "krum" | "multi-krum":
                return self._plain(krum(self._distances(), rule.liars, rule.kept))
            case _:
                return self._plain(range(count))

    def _plain(self, chosen: range | list[int]) -> Vector:
        running = RunningSum(self.size)
        for at in chosen:
            payload, codec, scale = self._rows[at]
            running.add(payload, codec, 1.0, float(scale))
            self._release()
        return running.mean()

    def _each(self, chosen: range | list[int], rule: Callable[[Vector, Vector], None]) -> Vector:
        out: Vector = np.empty(self.size, np.float32)
        for span, rows in self._blocks(chosen):
            rule(rows, out[span])
        return out

    def _distances(self) -> Matrix:
        """Squared, of all pairs. Products are summed in float64: near updates of a great length keep their distance."""
        count = len(self._rows)
        products: Matrix = np.zeros((count, count), np.float64)
        for _, rows in self._blocks(range(count)):
            wide = rows.astype(np.float64)
            products += wide @ wide.T
        return squared_distances(products)

    def _blocks(self, chosen: range | list[int]) -> Iterator[tuple[slice, Vector]]:
        """(coordinates, [nodes, coordinates]) through all coordinates; the room is used again."""
        width = max(BLOCK, ROOM // len(chosen) // BLOCK * BLOCK)
        room = np.empty((len(chosen), min(width, max(self.size, 1))), np.float32)
        for start in range(0, self.size, width):
            stop = min(start + width, self.size)
            rows = room[:, : stop - start]
            for number, (row, at) in enumerate(zip(rows, chosen, strict=True), 1):
                payload, codec, scale = self._rows[at]
                codec.part(payload, start, row)
                if scale != 1:
                    np.multiply(row, scale, out=row)
                if number % OPEN == 0 or number == len(chosen):
                    self._release()
            yield slice(start, stop), rows
