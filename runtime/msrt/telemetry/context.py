"""W3C trace context as it travels: `traceparent`, then, after a space, `tracestate` if there is one. Pure.

https://www.w3.org/TR/trace-context/. One string in every message: who does not trace passes it on as it is.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

__all__ = ["NOT_SAMPLED", "TraceContext", "is_sampled", "joined", "parse"]

_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[^ ]*)?(?: (.+))?", re.ASCII)
_ODD: Final = frozenset("13579bdf")
SIZE: Final = 55
"""Characters of a traceparent of version 00; later ones may go on after a dash."""
STATE_SIZE: Final = 512
"""Characters of a tracestate that every node must carry; a longer one may be dropped whole, and is."""
NOT_SAMPLED: Final = "00"


class TraceContext(NamedTuple):
    """Which trace, which span of it, whether it is recorded, and what other vendors want carried along."""

    trace_id: int
    span_id: int
    sampled: bool = True
    state: str = ""

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{'01' if self.sampled else NOT_SAMPLED}"

    @property
    def text(self) -> str:
        """As `parse` takes it."""
        return f"{self.traceparent} {self.state}" if self.state else self.traceparent


def is_sampled(trace: str) -> bool:
    """Whether it says that it is recorded; a glance at one character, not a check."""
    return len(trace) >= SIZE and trace[SIZE - 1] in _ODD


@lru_cache(maxsize=256)  # a request's is asked for by each of its parts
def parse(trace: str) -> TraceContext | None:
    """None for what is no trace context: a new trace begins there."""
    found = _FORM.fullmatch(trace)
    if found is None:
        return None
    version, trace_id, span_id, flags, more, state = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & 1), state or "")


def joined(traceparent: str, tracestate: str = "") -> str:
    """Two headers as one string."""
    if not traceparent or not tracestate or len(tracestate) > STATE_SIZE or not tracestate.isprintable():
        return traceparent[:SIZE]
    return f"{traceparent[:SIZE]} {tracestate}"
