"""An OpenTelemetry collector in a thread: takes OTLP over HTTP, keeps the spans, shows them as a tree."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

__all__ = ["Collector", "Seen"]


class Seen(NamedTuple):
    """One span."""

    name: str
    service: str
    trace: str
    span: str
    parent: str
    began: int
    ended: int
    attributes: dict
    error: str
    links: tuple
    state: str

    @property
    def took(self):
        return (self.ended - self.began) / 1e9


class Collector:
    """`url` is what nodes are told."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces"
                collector.spans += decoded(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def of(self, trace: str, *names: str, timeout_s: float = 15.0) -> list[Seen]:
        """Spans of a trace by their beginning, once one of each of these names is here."""
        end = time.monotonic() + timeout_s
        while True:
            found = sorted((span for span in self.spans if span.trace == trace), key=lambda span: span.began)
            if set(names) <= {span.name for span in found}:
                return found
            if time.monotonic() > end:
                raise TimeoutError(f"{trace} has only {[span.name for span in found]}")
            time.sleep(0.05)


def decoded(body: bytes) -> list[Seen]:
    out = []
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        said = values(resource.resource.attributes)
        for scope in resource.scope_spans:
            out += [
                Seen(
                    one.name, said["service.name"], one.trace_id.hex(), one.span_id.hex(), one.parent_span_id.hex(),
                    one.start_time_unix_nano, one.end_time_unix_nano, values(one.attributes), one.status.message,
                    tuple(link.span_id.hex() for link in one.links), one.trace_state,
                )
                for one in scope.spans
            ]  # fmt: skip
    return out


def values(attributes):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
