"""Spans to a collector over OTLP/HTTP, by OpenTelemetry's own SDK: the only file that imports it.

Its batch thread sends; what is handed to it is bounded here. A collector that is away costs spans, which are counted,
and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random  # noqa: TID251 - the type of World.random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import structlog

from msrt.errors import InvalidConfig, LocalError, words_of
from msrt.telemetry.spans import CLIENT, INTERNAL, SERVER, Sink, Span, Tracer

if TYPE_CHECKING:
    from msrt.protocol.messages import Mark

__all__ = ["OtlpSink", "collector_of", "open_tracer"]

log = structlog.get_logger()
PATH: Final = "/v1/traces"
WAITING: Final = 4096
"""Spans that may wait for the thread; one more is dropped and counted."""
BATCH: Final = 256
EVERY_MS: Final = 1000
TIMEOUT_S: Final = 2.0
"""Of one batch, its repeats included."""
DEVICES: Final = 4096
OpenSink = Callable[[str, str, str, str], Sink]


def collector_of(endpoint: str, environment: Mapping[str, str] = os.environ) -> str:
    """Where spans go: as set, else as OpenTelemetry's variables say; empty: nowhere. Raises InvalidConfig."""
    whole = "" if endpoint else environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
    url = whole or endpoint or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    if not url or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ""
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise InvalidConfig(f"{url!r} is no collector's URL", hint="OTLP over HTTP: http://HOST:4318")
    return url if whole or urlsplit(url).path.endswith(PATH) else url.rstrip("/") + PATH


def open_tracer(  # noqa: PLR0913 - who the spans are of, and where all comes from
    endpoint: str, share: float, role: str, node: str, name: str, *, rng: random.Random, now: Callable[[], float],
    wall: Callable[[], float], open_sink: OpenSink | None = None, **attributes: Mark,
) -> Tracer | None:  # fmt: skip
    """A tracer, where there is a collector. `attributes` stand on each span of this node. `open_sink`: of the
    collector's URL, service, node and name; else spans are sent from this process. Raises InvalidConfig, LocalError
    (msrt[trace] is not installed)."""
    url = collector_of(endpoint)
    if not url:
        return None
    try:
        sink = (open_sink or OtlpSink)(url, f"msrt-{role}", node, name)
    except LocalError as error:
        if endpoint:
            raise
        log.warning("trace.off", url=url, error=words_of(error))  # the environment may mean others
        return None
    return Tracer(sink, share=share, rng=rng, now=now, wall=wall, attributes=attributes)


class _Sampled:
    sampled = True


class _Flags:
    trace_flags = _Sampled()


class _Handed:
    """An ended span on its way to the thread. The SDK's processor looks at no more of it than `context`."""

    __slots__ = ("began", "ended", "span")
    context = _Flags()

    def __init__(self, span: Span, began: int, ended: int) -> None:
        self.span, self.began, self.ended = span, began, ended


class OtlpSink:
    """The SDK's batch processor behind our bounds and counts."""

    def __init__(self, url: str, service: str, node: str, name: str) -> None:
        try:
            from opentelemetry import trace  # noqa: PLC0415 - an extra
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.sdk import trace as sdk  # noqa: PLC0415
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
            from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415
        except ImportError as error:
            raise LocalError("traces need OpenTelemetry's SDK", hint="pip install 'msrt[trace]'") from error
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # we say it, once
        self._trace, self._sdk, self._scope = trace, sdk, InstrumentationScope("msrt")
        self._kinds = {
            INTERNAL: trace.SpanKind.INTERNAL, SERVER: trace.SpanKind.SERVER, CLIENT: trace.SpanKind.CLIENT,
        }  # fmt: skip
        self._resource = Resource.create(
            {"service.name": service, **({"service.instance.id": node, "host.name": name} if node else {})}
        )
        self._resource_type = Resource
        self._devices: dict[str, Any] = {}
        self._handed = self._full = 0
        self._exporter = _Counting(OTLPSpanExporter(endpoint=url, timeout=TIMEOUT_S), url, self.readable)
        exporter: Any = self._exporter
        self._processor: Any = BatchSpanProcessor(
            exporter, max_queue_size=2 * WAITING, schedule_delay_millis=EVERY_MS, max_export_batch_size=BATCH
        )

    @property
    def sent(self) -> int:
        return self._exporter.sent

    @property
    def dropped(self) -> int:
        return self._exporter.lost + self._full

    @property
    def away(self) -> bool:
        """The collector took the last batch not."""
        return self._exporter.failing

    def emit(self, span: Span, began: int, ended: int) -> None:
        if self._handed - self._exporter.taken >= WAITING:
            self._full += 1
            return
        self._handed += 1
        self._processor.on_end(_Handed(span, began, ended))

    def readable(self, handed: _Handed) -> Any:
        """As the SDK's exporter takes it; made in its thread."""
        span, trace = handed.span, self._trace
        status = trace.Status(trace.StatusCode.ERROR, span.error) if span.error else trace.Status()
        return self._sdk.ReadableSpan(
            span.name,
            self._context(span.context, remote=False),
            None if span.parent is None else self._context(span.parent, remote=span.kind == SERVER),
            self._resource if not span.owner else self._device(span.owner),
            span.attributes,
            links=[trace.Link(self._context(link, remote=False)) for link in span.links],
            kind=self._kinds[span.kind],
            status=status,
            start_time=handed.began,
            end_time=handed.ended,
            instrumentation_scope=self._scope,
        )

    def _context(self, context: Any, *, remote: bool) -> Any:
        trace = self._trace
        state = trace.TraceState.from_header([context.state]) if context.state else None
        return trace.SpanContext(context.trace_id, context.span_id, remote, trace.TraceFlags(1), state)

    def _device(self, name: str) -> Any:
        if name not in self._devices:
            if len(self._devices) >= DEVICES:
                self._devices.clear()
            self._devices[name] = self._resource_type.create({"service.name": "msrt-device", "host.name": name})
        return self._devices[name]

    async def finish(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def close(self) -> None:
        """`finish` where there is no loop to hold."""
        self._exporter.closing = True
        self._processor.shutdown()


class _Counting:
    """A SpanExporter: the SDK's, with what became of the spans. Called by its thread only."""

    def __init__(self, exporter: Any, url: str, readable: Callable[[_Handed], Any]) -> None:
        self._exporter, self._url, self._readable = exporter, url, readable
        self.taken = self.sent = self.lost = 0
        self.closing = self.failing = False

    def export(self, spans: Sequence[_Handed]) -> Any:
        from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415 - see OtlpSink

        self.taken += len(spans)
        if self.closing and self.failing:  # nobody waits for a collector that is away
            self.lost += len(spans)
            return SpanExportResult.FAILURE
        found = self._exporter.export([self._readable(span) for span in spans])
        failed = found is not SpanExportResult.SUCCESS
        if failed:
            self.lost += len(spans)
        else:
            self.sent += len(spans)
        if failed != self.failing:
            self.failing = failed
            (log.warning if failed else log.info)("trace.collector_away" if failed else "trace.sent", url=self._url)
        return found

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return bool(self._exporter.force_flush(timeout_millis))
