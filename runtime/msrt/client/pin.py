"""What binds the requests of one sequence to one edge: its device keeps their state, and nobody else can go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msrt.errors import SequenceLost

if TYPE_CHECKING:
    from msrt.client.front import Front

__all__ = ["Pin"]


class Pin:
    """Where a sequence is. Until its first step was answered it may begin anywhere; from then on it never moves."""

    __slots__ = ("__weakref__", "front", "lost", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.front: Front | None = None
        self.lost: SequenceLost | None = None
        """Why it cannot go on."""

    def lose(self, why: str) -> SequenceLost:
        """It ends here; the first reason counts."""
        if self.lost is None:
            self.lost = SequenceLost(f"the sequence {self.name!r} is lost: {why}", hint="begin it again")
        return self.lost
