"""What a manifest keeps of the data a model was made with. No numpy here: masters read manifests, devices compare."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["EDGES", "Reference"]

EDGES: Final = 7
"""Just below the least, five quantiles from a tenth to nine, the greatest."""


class Reference(msgspec.Struct, frozen=True):
    """Of each feature the bins and how many samples fell into them: see `msrt.inference.drift`."""

    samples: int
    edges: bytes
    """float32, features x EDGES, the missing ones NaN."""
    counts: bytes
    """uint32, features x (EDGES + 1)."""
