"""Curves in a terminal: braille dots, two across and four down in each cell, an axis, a mark for each curve. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["plot"]

WIDTH: Final = 64
HEIGHT: Final = 12
BLANK: Final = 0x2800
DOTS: Final = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bit of a dot by column and row of its cell."""
MARKS: Final = "●▲■◆○△□◇"


def plot(
    curves: Mapping[str, Sequence[float | None]], what: str, width: int = WIDTH, height: int = HEIGHT
) -> list[str]:
    """Lines of text; nothing where there is nothing to draw. x is the round, from 1 on, the same for all curves."""
    known = {
        name: [(at, value) for at, value in enumerate(values) if value is not None and math.isfinite(value)]
        for name, values in curves.items()
    }
    points = [point for curve in known.values() for point in curve]
    if not points:
        return []
    last = max(1, *(at for at, _ in points))
    low, high = min(value for _, value in points), max(value for _, value in points)
    span = (high - low) or 1.0
    cells = [[BLANK] * width for _ in range(height)]
    marks: dict[tuple[int, int], str] = {}
    for number, curve in enumerate(known.values()):
        placed = [
            (round(at / last * (2 * width - 1)), round((high - value) / span * (4 * height - 1))) for at, value in curve
        ]
        for start, end in zip(placed, placed[1:] or placed, strict=False):
            _line(cells, start, end)
        if placed:
            x, y = placed[-1]
            marks[y // 4, x // 2] = MARKS[number % len(MARKS)]
    labels = {0: f"{high:.4g}", height - 1: f"{low:.4g}"}
    wide = max(map(len, labels.values()))
    lines = [f"{what} by round"]
    for row in range(height):
        drawn = "".join(marks.get((row, column), chr(cells[row][column])) for column in range(width))
        lines.append(f"{labels.get(row, ''):>{wide}} ┤{drawn.replace(chr(BLANK), ' ')}".rstrip())
    lines.append(f"{'':>{wide}} └{'─' * width}")
    lines.append(f"{'':>{wide}}  1{last + 1:>{width - 1}}")
    lines += [f"{'':>{wide}}  {MARKS[number % len(MARKS)]} {name}" for number, name in enumerate(known)]
    return lines


def _line(cells: list[list[int]], start: tuple[int, int], end: tuple[int, int]) -> None:
    """Dots from one point to the other."""
    (x0, y0), (x1, y1) = start, end
    steps = max(abs(x1 - x0), abs(y1 - y0), 1)
    for step in range(steps + 1):
        x, y = x0 + round((x1 - x0) * step / steps), y0 + round((y1 - y0) * step / steps)
        cells[y // 4][x // 2] |= DOTS[x % 2][y % 4]
