"""Who is below whom in a simulated tree."""

from __future__ import annotations

import math
import re
from typing import Final

import msgspec

from msrt.errors import CallerError

__all__ = ["Shape", "parse_shape"]

NODES: Final = 100_000


class Shape(msgspec.Struct, frozen=True):
    """`masters`: how many are below the cloud, how many below each of these, and so on; `nodes` in all."""

    masters: tuple[int, ...]
    nodes: int

    def __post_init__(self) -> None:
        if not (self.masters and min(self.masters) > 0 and math.prod(self.masters) <= self.nodes <= NODES):
            raise CallerError(
                f"a tree of {self} cannot be", hint=f"every lowest master has a node at least, all together {NODES}"
            )

    def __str__(self) -> str:
        return f"{' x '.join(map(str, self.masters))} masters and {self.nodes} nodes"

    def homes(self, node: int) -> tuple[int, ...]:
        """The masters above a node, by their numbers on each level, from the top: nodes are dealt out in turn."""
        at, path = node, []
        for count in reversed(self.masters):
            path.append(at % count)
            at //= count
        return tuple(path[::-1])


def parse_shape(text: str) -> Shape:
    """`2x4x8` is a cloud over 2 masters, each over 4 masters, each of these over 8 nodes. Raises CallerError."""
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5})+", text):
        raise CallerError(f"no tree is {text!r}", hint="2x8 is two regions of eight nodes, 2x4x8 has masters between")
    numbers = tuple(map(int, text.split("x")))
    return Shape(numbers[:-1], math.prod(numbers))
