"""Spans of the requests that are traced, and which those are. Without a collector there is no Tracer at all.

Head sampling: a caller that says "sampled" is traced, one that says "not sampled" is not, and of those that say nothing
a share is. A request that is not traced costs one call that looks at a character or draws a number.
"""

from __future__ import annotations

import random  # noqa: TID251 - the type of World.random
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from msrt.protocol.messages import Mark
from msrt.telemetry.context import TraceContext, is_sampled, parse

__all__ = ["CHOSEN", "CLIENT", "INTERNAL", "SERVER", "Sink", "Span", "Tracer"]

INTERNAL, SERVER, CLIENT = "internal", "server", "client"
CHOSEN: Final = "chosen"
"""In the place of a trace: it was drawn here, and begins here."""


class Span:
    """One piece of work. `trace` is what is handed to those who do parts of it."""

    __slots__ = (
        "attributes",
        "began",
        "context",
        "error",
        "kind",
        "links",
        "name",
        "owner",
        "parent",
        "took",
        "tracer",
    )

    def __init__(
        self, tracer: Tracer, name: str, context: TraceContext, parent: TraceContext | None, kind: str, began: float
    ) -> None:
        self.tracer, self.name, self.context, self.parent = tracer, name, context, parent
        self.kind, self.began, self.took = kind, began, -1.0
        self.attributes: dict[str, Mark] = {}
        self.links: list[TraceContext] = []
        self.error = ""
        """Code of the error it ended with."""
        self.owner = ""
        """Name of the device whose work it is; empty: this node's."""

    @property
    def trace(self) -> str:
        return self.context.text

    def set(self, **attributes: Mark) -> Span:
        """Say more of it: `model` becomes msrt.model."""
        for name, value in attributes.items():
            self.attributes[f"msrt.{name}"] = value
        return self

    def end(self, at: float | None = None, error: str = "") -> None:
        """It is over, and goes to the collector. Ended twice, the first counts."""
        if self.took < 0:
            self.took = max((self.tracer.now() if at is None else at) - self.began, 0.0)
            self.error = error
            self.tracer.ended(self)


class Sink(Protocol):
    """Where ended spans go. Never blocks, never fails."""

    @property
    def sent(self) -> int: ...

    @property
    def dropped(self) -> int:
        """Spans that never reached the collector."""

    def emit(self, span: Span, began: float, ended: float) -> None:
        """Both in seconds since 1970."""

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
        """Monotonic time becomes the calendar's here, once: a clock that is set must not bend a span."""
        offset = self._wall() - self.now()
        began = span.began + offset
        self.sink.emit(span, began, began + span.took)
