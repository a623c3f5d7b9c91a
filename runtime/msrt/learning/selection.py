"""Who takes part in a round."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

__all__ = ["draw"]


def draw(devices: Sequence[str], most: int, job: str, number: int) -> list[str]:
    """At most so many of them, in their order; others in every round, the same ones when a round is opened again."""
    if len(devices) <= most:
        return list(devices)
    lots = sorted(devices, key=lambda node: hashlib.sha256(f"{job}/{number}/{node}".encode()).digest())
    drawn = set(lots[:most])
    return [node for node in devices if node in drawn]
