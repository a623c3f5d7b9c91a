"""Shapes and orders: windows over images, and what reshape, flatten and transpose mean where nothing is moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

from msrt.errors import InvalidModel
from msrt.inference.micro.blob import Op
from msrt.inference.micro.graph import Node
from msrt.inference.micro.values import Flat, Layout, Tensor

__all__ = ["SHAPERS", "Shaped", "Window", "window"]


def _refuse(node: Node, why: str) -> InvalidModel:
    return InvalidModel(f"no microcontroller runs it: {node.shown} {why}")


# --- windows -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """An operator that slides over height and width; of a signal (three axes) the height is 1."""

    op: Op
    rank: int

    def layout(self, channels: int) -> Layout:
        """Of its result: channels lie together."""
        if self.rank == 3:
            return Layout((1, channels, self.op.out_w), (0, 2, 1))
        return Layout((1, channels, self.op.out_h, self.op.out_w), (0, 2, 3, 1))


def window(node: Node, source: Tensor, kernel: Sequence[int]) -> Window:
    """A record with sizes, strides, padding and dilation; out_c is left to the caller. Raises InvalidModel."""
    shape, rank = source.layout.shape, len(source.layout.shape)
    if rank not in (3, 4) or source.flat is not None or len(kernel) != rank - 2:
        raise _refuse(node, f"slides {list(kernel)} over a tensor of shape {list(shape)}")
    wanted = [axis for axis in (0, *range(2, rank), 1) if shape[axis] > 1]
    if [axis for axis in source.layout.order if shape[axis] > 1] != wanted:
        raise _refuse(node, "takes an image whose channels do not lie together")
    attributes = node.attributes
    if attributes.get("ceil_mode", 0):
        raise _refuse(node, "rounds its size up (ceil_mode)")
    ones = [1] * (rank - 2)
    strides = list(attributes.get("strides", ones))
    dilations = list(attributes.get("dilations", ones))
    sizes = list(shape[2:])
    begins, outs = [], []
    for at, size in enumerate(sizes):
        reach = (kernel[at] - 1) * dilations[at] + 1
        begin, end = _padding(attributes, at, size, reach, strides[at])
        begins.append(begin)
        outs.append((size + begin + end - reach) // strides[at] + 1)
    if min(outs) < 1 or any(begin >= kernel[at] * dilations[at] for at, begin in enumerate(begins)):
        raise _refuse(node, f"has a window of {list(kernel)} with more padding than window")

    def two(values: Sequence[int], one: int) -> tuple[int, int]:
        return (values[0], values[1]) if rank == 4 else (one, values[0])

    (in_h, in_w), (out_h, out_w), (kernel_h, kernel_w) = two(sizes, 1), two(outs, 1), two(list(kernel), 1)
    (stride_h, stride_w), (dilation_h, dilation_w), (top, left) = two(strides, 1), two(dilations, 1), two(begins, 0)
    op = Op(
        0, in_h=in_h, in_w=in_w, in_c=shape[1], out_h=out_h, out_w=out_w, kernel_h=kernel_h, kernel_w=kernel_w,
        stride_h=stride_h, stride_w=stride_w, pad_top=top, pad_left=left, dilation_h=dilation_h, dilation_w=dilation_w,
    )  # fmt: skip
    return Window(op, rank)


def _padding(attributes: dict[str, object], at: int, size: int, reach: int, stride: int) -> tuple[int, int]:
    kind = attributes.get("auto_pad", "NOTSET")
    kind = kind.decode() if isinstance(kind, bytes) else kind
    if kind in ("SAME_UPPER", "SAME_LOWER"):
        more = max(0, (-(-size // stride) - 1) * stride + reach - size)
        less = more // 2
        return (less, more - less) if kind == "SAME_UPPER" else (more - less, less)
    pads = attributes.get("pads")
    if kind == "VALID" or not isinstance(pads, list | tuple):
        return 0, 0
    return int(pads[at]), int(pads[at + len(pads) // 2])


# --- other shapes of the same numbers --------------------------------------------------------------------------


@dataclass(frozen=True)
class Shaped:
    """The same bytes, seen otherwise."""

    made: Layout
    flat: Flat | None = None


Shaper = Callable[[Node, Layout, Flat | None, "list[int] | None"], Shaped]


def _same(_node: Node, layout: Layout, flat: Flat | None, _given: list[int] | None) -> Shaped:
    return Shaped(layout, flat)


def _reshape(node: Node, layout: Layout, flat: Flat | None, given: list[int] | None) -> Shaped:
    if given is None:
        raise _refuse(node, "takes its shape from a tensor")
    shape = [layout.shape[at] if size == 0 and at < len(layout.shape) else size for at, size in enumerate(given)]
    if shape.count(-1) == 1:
        rest = -prod(shape)
        shape[shape.index(-1)] = layout.size // rest if rest else 0
    return _seen_as(node, layout, flat, tuple(shape))


def _flatten(node: Node, layout: Layout, flat: Flat | None, _given: list[int] | None) -> Shaped:
    axis = int(node.attributes.get("axis", 1)) % len(layout.shape)
    return _seen_as(node, layout, flat, (prod(layout.shape[:axis]), prod(layout.shape[axis:])))


def _axes(node: Node, given: list[int] | None) -> list[int] | None:
    axes = node.attributes.get("axes")
    return given if axes is None else [int(axis) for axis in axes]


def _squeeze(node: Node, layout: Layout, flat: Flat | None, given: list[int] | None) -> Shaped:
    rank, axes = len(layout.shape), _axes(node, given)
    gone = {axis % rank for axis in axes} if axes is not None else set(range(1, rank))
    if axes is None:
        gone = {axis for axis in gone if layout.shape[axis] == 1}
    if any(layout.shape[axis] != 1 for axis in gone):
        raise _refuse(node, f"squeezes axes {sorted(gone)} of the shape {list(layout.shape)}")
    return _seen_as(node, layout, flat, tuple(n for axis, n in enumerate(layout.shape) if axis not in gone))


def _unsqueeze(node: Node, layout: Layout, flat: Flat | None, given: list[int] | None) -> Shaped:
    axes = _axes(node, given) or []
    rank = len(layout.shape) + len(axes)
    places = {axis % rank for axis in axes}
    rest = iter(layout.shape)
    return _seen_as(node, layout, flat, tuple(1 if axis in places else next(rest) for axis in range(rank)))


def _transpose(node: Node, layout: Layout, flat: Flat | None, _given: list[int] | None) -> Shaped:
    rank = len(layout.shape)
    turned = [int(axis) for axis in node.attributes.get("perm", range(rank - 1, -1, -1))]
    if flat is not None or sorted(turned) != list(range(rank)):
        raise _refuse(node, "turns what was flattened")
    return Shaped(Layout(tuple(layout.shape[a] for a in turned), tuple(turned.index(a) for a in layout.order)))


def _seen_as(node: Node, layout: Layout, flat: Flat | None, shape: tuple[int, ...]) -> Shaped:
    if not shape or shape[0] != 1 or min(shape) < 1 or prod(shape) != layout.size:
        raise _refuse(node, f"makes {list(shape)} of {list(layout.shape)}")
    if shape == layout.shape:
        return Shaped(layout, flat)
    if flat is not None:
        if shape == flat.of.shape:
            return Shaped(flat.of)
        raise _refuse(node, "gives another shape to what was flattened")
    if layout.natural:
        return Shaped(Layout(shape, tuple(range(len(shape)))))
    before = [axis for axis, size in enumerate(layout.shape) if size > 1]
    after = [axis for axis, size in enumerate(shape) if size > 1]
    if [layout.shape[axis] for axis in before] == [shape[axis] for axis in after]:
        where = dict(zip(before, after, strict=True))
        ones = tuple(axis for axis in range(len(shape)) if shape[axis] == 1)
        return Shaped(Layout(shape, ones + tuple(where[axis] for axis in layout.order if axis in where)))
    if shape == (1, layout.size):
        return Shaped(Layout(shape, (0, 1)), Flat(layout))
    raise _refuse(node, f"makes {list(shape)} of an image of {list(layout.shape)}, which would move its numbers")


SHAPERS: Final[dict[str, Shaper]] = {
    "Identity": _same, "Dropout": _same, "Reshape": _reshape, "Flatten": _flatten, "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze, "Transpose": _transpose,
}  # fmt: skip
