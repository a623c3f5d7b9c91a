"""A codec by the name that stands in job.toml and travels with every update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msrt.errors import BadUpdate
from msrt.learning.compress.blocks import Int8, Sign
from msrt.learning.compress.codec import Codec
from msrt.learning.compress.dense import Bfloat16, Float16, Float32
from msrt.learning.compress.lowrank import PowerSgd
from msrt.learning.compress.sparse import TopK
from msrt.learning.vector import Layout, Slot

__all__ = ["PLAIN", "open_codec"]

PLAIN: Final[dict[str, Callable[[str, Layout], Codec]]] = {
    "fp32": Float32, "fp16": Float16, "bf16": Bfloat16, "int8": Int8, "sign": Sign,
}  # fmt: skip


def open_codec(name: str, layout: Layout | int) -> Codec:
    """fp32, fp16, bf16, int8, sign, topk:SHARE or powersgd:RANK for vectors of this layout, or of one tensor of so
    many elements. Raises BadUpdate.
    """
    if isinstance(layout, int):
        layout = Layout((Slot("", (layout,), "float32"),))
    kind, _, number = name.partition(":")
    try:
        if kind in PLAIN and not number:
            return PLAIN[kind](name, layout)
        if kind == "topk" and 0 < float(number) < 1:
            return TopK(name, layout, float(number))
        if kind == "powersgd" and int(number) > 0:
            return PowerSgd(name, layout, int(number))
    except ValueError:
        pass
    raise BadUpdate(f"unknown encoding {name!r}", hint=f"use one of {', '.join(PLAIN)}, topk:SHARE, powersgd:RANK")
