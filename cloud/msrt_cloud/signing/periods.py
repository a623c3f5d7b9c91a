"""For how long signatures are good."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Periods"]


@dataclass(frozen=True)
class Periods:
    """Seconds."""

    timestamp: float
    targets: float
    """Snapshot and targets files."""
    root: float
