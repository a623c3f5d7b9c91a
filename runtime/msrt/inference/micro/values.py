"""What a name of the graph stands for while it is lowered."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from numpy.typing import NDArray

from msrt.inference.micro.blob import Op

__all__ = ["Constant", "Flat", "Input", "Layout", "Pending", "Quant", "Softmax", "Tensor", "Value"]


@dataclass(frozen=True)
class Quant:
    """real = scale * (number - zero), numbers are int8; UINT8 ones of the graph are moved down by 128."""

    scale: float
    zero: int
    unsigned: bool = False


@dataclass(frozen=True)
class Layout:
    """How a tensor lies in memory: `shape` as the graph sees it (its batch is 1), `order` its axes as they are stored.

    The two of what was flattened are those of the tensor that it was.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def natural(self) -> bool:
        """Stored as the graph sees it: axes of one element do not matter."""
        kept = [axis for axis in self.order if self.shape[axis] > 1]
        return kept == sorted(kept)


@dataclass(frozen=True)
class Flat:
    """A row of numbers which is another layout, seen as [1, size]."""

    of: Layout


@dataclass(frozen=True)
class Tensor:
    """Something in the arena. `floating`: it was dequantised, and operators of floats take it."""

    number: int
    quant: Quant
    layout: Layout
    flat: Flat | None = None
    floating: bool = False

    def seen(self, *, floating: bool) -> Tensor:
        return replace(self, floating=floating)


@dataclass(frozen=True)
class Input:
    """The graph's own, in floats, before its quantiser."""

    layout: Layout


@dataclass(frozen=True)
class Constant:
    """Known numbers; with `scale` they are the dequantised ones of `array`."""

    array: NDArray[Any]
    scale: NDArray[Any] | None = None
    zero: NDArray[Any] | None = None
    axis: int = 0


@dataclass(frozen=True)
class Pending:
    """An operator whose result waits for the quantiser that says its scale. `factors` (one, or one a channel) times
    the accumulator is the real result."""

    op: Op
    sources: tuple[Tensor, ...]
    layout: Layout
    node: str
    flat: Flat | None = None
    weights: NDArray[Any] | None = None
    bias: NDArray[Any] | None = None
    """Float, a channel each."""
    factors: tuple[Any, ...] = ()
    low: float = -float("inf")
    high: float = float("inf")


@dataclass(frozen=True)
class Softmax:
    """Of a tensor, by the host; with the quantiser that follows it, if one does."""

    source: Tensor
    quant: Quant | None = None
    floating: bool = True
    notes: tuple[str, ...] = field(default=())


Value = Tensor | Input | Constant | Pending | Softmax
