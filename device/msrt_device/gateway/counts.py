"""What a gateway counts of its board, over all the times that it found one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from msrt.telemetry.metrics import Metrics, Tally

__all__ = ["Counts", "observe"]


@dataclass
class Counts:
    """Numbers since the process started."""

    here: bool = False
    """The board is there now."""
    joined: int = 0
    """Times that a board was greeted and took its lease."""
    cut: int = 0
    """Times that one was lost: unplugged, silent, or started again."""
    sent: int = 0
    """Frames."""
    received: int = 0
    again: int = 0
    """Of the frames sent those that ask the same again."""
    damaged: int = 0
    """Frames that came and were not whole: length or CRC is wrong."""
    answered: int = 0
    """Inferences."""
    failed: int = 0
    chunk_bytes: int = 0
    """Of models, handed over and taken."""


def observe(metrics: Metrics, counts: Counts) -> None:
    """Register them."""
    metrics.watch("board_here", "1 while the board is there.", lambda: counts.here)
    for name, help_, read in (
        ("board_joined_total", "Times that a board was greeted and took its lease.", lambda: counts.joined),
        ("board_cut_total", "Times that the board was lost: unplugged, silent or restarted.", lambda: counts.cut),
        ("board_damaged_frames_total", "Frames from the board whose length or CRC is wrong.", lambda: counts.damaged),
        ("board_repeated_frames_total", "Frames that ask the board the same again.", lambda: counts.again),
        ("board_chunk_bytes_total", "Bytes of models that the board has taken.", lambda: counts.chunk_bytes),
    ):
        metrics.tally(name, help_, (), _one(read))
    metrics.tally(
        "board_frames_total", "Whole frames.", ("direction",),
        lambda: {("out",): counts.sent, ("in",): counts.received},
    )  # fmt: skip
    metrics.tally(
        "board_inferences_total", "Rows that the board was asked.", ("code",),
        lambda: {("ok",): counts.answered, ("failed",): counts.failed},
    )  # fmt: skip


def _one(read: Callable[[], float]) -> Callable[[], Tally]:
    return lambda: {(): read()}
