"""Spans of the requests that are traced, and which those are. Without a collector there is no Tracer at all.

Head sampling: a caller that says "sampled" is traced, one that says "not sampled" is not, and of those that say nothing
a share is. A request that is not traced costs one call that looks at a character or draws a number.
"""

from __future__ import annotations

import math
import random  # noqa: TID251 - the type of World.random
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from msrt.protocol.messages import Mark
from msrt.telemetry.context import TraceContext, is_sampled, parse

__all__ = ["CHOSEN", "CLIENT", "INTERNAL", "SERVER", "Sink", "Span", "Tracer"]

INTERNAL, SERVER, CLIENT = "internal", "server", "client"
CHOSEN: Final = "chosen"
"""In the place of a trace: it was drawn here, and begins here."""
STEP_S: Final = 0.1
"""The calendar's clock was set, where it is farther than this from where it should be: less is the machine's haste."""


class Span:
    """One piece of work. `trace` is what is handed to those who do parts of it."""

    __slots__ = (
        "attributes",
        "began",
        "context",
        "ended",
        "error",
        "kind",
        "links",
        "name",
        "owner",
        "parent",
        "tracer",
    )

    def __init__(
        self, tracer: Tracer, name: str, context: TraceContext, parent: TraceContext | None, kind: str, began: float
    ) -> None:
        self.tracer, self.name, self.context, self.parent = tracer, name, context, parent
        self.kind, self.began = kind, began
        self.ended = -math.inf
        """By the same clock as `began`; before it: the work goes on."""
        self.attributes: dict[str, Mark] = {}
        self.links: list[TraceContext] = []
        self.error = ""
        """Code of the error it ended with."""
        self.owner = ""
        """Name of the device whose work it is; empty: this node's."""

    @property
    def trace(self) -> str:
        return self.context.text

    @property
    def took(self) -> float:
        """Seconds; negative while it goes on."""
        return self.ended - self.began

    def set(self, **attributes: Mark) -> Span:
        """Say more of it: `model` becomes msrt.model."""
        for name, value in attributes.items():
            self.attributes[f"msrt.{name}"] = value
        return self

    def end(self, at: float | None = None, error: str = "") -> None:
        """It is over, and goes to the collector. Ended twice, the first counts."""
        if self.ended < self.began:
            self.ended = max(self.tracer.now() if at is None else at, self.began)
            self.error = error
            self.tracer.ended(self)


class Sink(Protocol):
    """Where ended spans go. Never blocks, never fails."""

    @property
    def sent(self) -> int: ...

    @property
    def dropped(self) -> int:
        """Spans that never reached the collector."""

    def emit(self, span: Span, began: int, ended: int) -> None:
        """Both in nanoseconds since 1970."""

    async def finish(self) -> None:
        """Send what waits, as long as that makes sense."""


class Tracer:
    """One node's. `started` counts the spans that were ever made."""

    def __init__(
        self, sink: Sink, *, share: float, rng: random.Random, now: Callable[[], float], wall: Callable[[], float],
        attributes: Mapping[str, Mark] | None = None,
    ) -> None:  # fmt: skip
        self.sink, self.share, self.now = sink, share, now
        quick = random.Random(rng.getrandbits(128))  # noqa: S311 - ids and shares, not keys; the system's is a call each
        self._bits, self._draw = quick.getrandbits, quick.random
        self._wall = wall
        self._offset_ns = self._apart_ns()
        self._common = {f"msrt.{name}": value for name, value in (attributes or {}).items()}
        self.started = 0

    def wants(self, trace: str, hops: int = 0) -> bool:
        """Whether a request is traced: asked at its head only. `hops`: who passed it on has decided already."""
        if trace:
            return is_sampled(trace) or trace is CHOSEN
        return not hops and self._draw() < self.share

    def start(self, name: str, trace: str, kind: str = INTERNAL, began: float | None = None) -> Span:
        """A part of that trace; the first of a new one where it is none."""
        parent = parse(trace)
        if parent is None:
            context = TraceContext(self._bits(128) or 1, self._bits(64) or 1)
        else:
            context = TraceContext(parent.trace_id, self._bits(64) or 1, parent.sampled, parent.state)
        self.started += 1
        span = Span(self, name, context, parent, kind, self.now() if began is None else began)
        span.attributes.update(self._common)
        return span

    def ended(self, span: Span) -> None:
        """Monotonic time becomes the calendar's here, all of it by one distance and in whole nanoseconds, so that a
        part lies inside its whole: where that was measured for each span, two readings of two clocks were between
        them, and a float of the calendar's seconds has steps of 238 ns. A clock that is set bends no span."""
        apart_ns = self._apart_ns()
        if abs(apart_ns - self._offset_ns) > STEP_S * 1e9:
            self._offset_ns = apart_ns
        began, ended = round(span.began * 1e9), round(span.ended * 1e9)
        self.sink.emit(span, self._offset_ns + began, self._offset_ns + ended)

    def _apart_ns(self) -> int:
        return round((self._wall() - self.now()) * 1e9)
