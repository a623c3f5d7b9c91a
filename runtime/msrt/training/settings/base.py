"""What every table of `job.toml` is made of."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

__all__ = [
    "CODEC", "CODECS", "Codec", "Count", "Decay", "NotNegative", "Part", "Positive", "Rate", "Seconds", "Share",
    "Table",
]  # fmt: skip

CODEC: Final = r"^(fp32|fp16|bf16|int8|sign|topk:0?\.\d{1,6}|powersgd:\d{1,2})$"

Positive = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Part = Annotated[float, msgspec.Meta(ge=0, le=1)]
Rate = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Decay = Annotated[float, msgspec.Meta(ge=0, lt=1)]
CODECS: Final = "fp32, fp16, bf16, int8, sign, topk:SHARE (as topk:0.01) or powersgd:RANK (as powersgd:2)"
Codec = Annotated[str, msgspec.Meta(pattern=CODEC, description=CODECS)]
"""fp32, fp16, bf16, int8, sign, topk:SHARE or powersgd:RANK: see msrt.learning.compress."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One table: frozen, and an unknown key in it is an error."""
