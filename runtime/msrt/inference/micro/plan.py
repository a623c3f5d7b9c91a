"""Where each tensor lies in the arena: those that live at the same time do not overlap.

Greedy by size after Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference" (2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Life", "plan"]

_ALIGN = 4


@dataclass(frozen=True)
class Life:
    """A tensor: its bytes, and the first and the last operator that needs it."""

    size: int
    first: int
    last: int


def plan(lives: Mapping[int, Life]) -> tuple[dict[int, int], int]:
    """Tensor to its offset, and bytes of the whole arena."""
    placed: dict[int, int] = {}
    for tensor, life in sorted(lives.items(), key=lambda item: (-item[1].size, item[0])):
        others = sorted(
            (placed[other], placed[other] + lives[other].size)
            for other in placed
            if lives[other].first <= life.last and life.first <= lives[other].last
        )
        placed[tensor] = _gap(others, life.size)
    return placed, max((placed[tensor] + _padded(life.size) for tensor, life in lives.items()), default=0)


def _gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    """The smallest gap that is large enough, else behind everything."""
    best, room, end = -1, 0, 0
    for begin, stop in taken:
        if begin - end >= size and (best < 0 or begin - end < room):
            best, room = end, begin - end
        end = max(end, _padded(stop))
    return best if best >= 0 else end


def _padded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
