"""What `msrt infer --trace` shows: where an answer's time went, from what the answer says."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

from msrt.protocol.messages import Mark

__all__ = ["new_trace", "other_marks", "trace_lines"]

NOBODY: Final = "the edge makes no spans: it was started without --trace"


def new_trace() -> str:
    """A traceparent that asks to be traced."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def other_marks(marks: Mapping[str, Mark]) -> dict[str, Mark]:
    """Those that do not speak of the trace."""
    return {name: value for name, value in marks.items() if name != "traceparent" and not name.startswith("trace_")}


def trace_lines(trace: str, seconds: float, device: str, marks: Mapping[str, Mark]) -> list[str]:
    """The trace's id, and the parts as a tree; times in milliseconds. `trace`: what was asked with, if we chose it."""
    said = str(marks.get("traceparent") or trace)
    lines = [f"trace {said.split('-')[1] if said.count('-') >= 3 else said}", f"client{_ms(seconds * 1e6):>24}"]
    if "traceparent" not in marks:
        return [*lines, f"└─ {NOBODY}"]
    total = _number(marks, "trace_total_us")
    lines.append(f"└─ master{_ms(total):>21}")
    if "trace_attempts" not in marks:
        what = "from the cache" if marks.get("cached") else "answered elsewhere"
        return [*lines, f"   └─ {what}"]
    queue, wait, compute, way = (
        _number(marks, f"trace_{name}_us") for name in ("queue", "device_queue", "compute", "way")
    )
    tries = int(_number(marks, "trace_attempts"))
    again = f", after {tries - 1} other tries" if tries > 1 else ""
    return [
        *lines,
        f"   ├─ queue{_ms(queue):>19}",
        f"   └─ {device}{again}",
        f"      ├─ way{_ms(way):>18}",
        f"      ├─ queue{_ms(wait):>16}",
        f"      └─ compute{_ms(compute):>14}",
    ]


def _number(marks: Mapping[str, Mark], name: str) -> float:
    value = marks.get(name, 0)
    return float(value) if isinstance(value, int | float) else 0.0


def _ms(us: float) -> str:
    return f"{us / 1000:.3f} ms"
