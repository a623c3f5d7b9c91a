"""Everything a node counts, in one object with its own registry: a simulation has many nodes in one process.

Cheap on the hot path: get a child once (`metrics.request_meter(...)`, `metrics.link_bytes.labels(...)`) and keep it; a
`labels()` call costs more than the count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "Metrics", "RequestMeter"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
LATENCY: Final = (.0005, .001, .002, .004, .008, .016, .032, .064, .128, .25, .5, 1.0, 2.0, 5.0, 10.0)  # fmt: skip
LAG: Final = (.001, .002, .005, .01, .02, .05, .1, .25, 1.0)  # fmt: skip


class Metrics:
    """The metrics of one node. Every name begins with `msrt_`; each attribute's comment says what its labels are."""

    def __init__(self, role: str = "", node: str = "", *, process: bool = False) -> None:
        """`process`: also memory, CPU and open files; for the one node of a real process."""
        self.registry = CollectorRegistry()
        self._serving()
        self._hops()
        self._keeping()
        self._training()
        self.info = self._gauge("node_info", "Who this is, always 1.", "role", "node")
        self.info.labels(role, node).set(1)
        self.loop_lag = self._histogram("loop_lag_seconds", "How late the event loop woke up.", LAG)
        if process:
            ProcessCollector(registry=self.registry)

    def _serving(self) -> None:
        self.requests = self._counter("requests_total", "Inference requests answered.", "model", "code")
        """code: ok, or the error's code. model: only names that exist, else a caller could fill the memory."""
        self.request_seconds = self._histogram("request_seconds", "Time to the answer.", LATENCY, "model")
        self.batch_rows = self._histogram("batch_rows", "Rows that rode together.", (1, 2, 4, 8, 16, 32, 64), "model")
        self.engine_seconds = self._histogram("engine_seconds", "One call of the model.", LATENCY, "model", "variant")
        self.retries = self._counter("retries_total", "Requests tried on another device.", "reason")
        self.model_version = self._gauge("model_version", "Version that takes traffic.", "model", "variant")
        self.queue_depth = self._gauge("queue_depth", "Waiting now.", "queue")
        self.queue_bytes = self._gauge("queue_bytes", "The same in bytes.", "queue")
        self.dropped = self._counter("dropped_total", "Thrown away by a queue's stated policy.", "queue", "reason")

    def _hops(self) -> None:
        self.leases = self._gauge("leases", "Workers that live.", "role")
        self.lost = self._counter("lost_total", "Workers that died or left.", "role", "reason")
        self.sessions = self._counter("sessions_total", "Sessions begun.", "outcome")
        """outcome: new, resumed, or the code of the refusal."""
        self.resent = self._counter("resent_total", "Messages sent again.", "delivery")
        self.refused = self._counter("refused_total", "Bad input refused.", "code")
        self.link_bytes = self._counter("link_bytes_total", "Bytes of packets.", "link", "direction")
        """link: zmq, mqtt, http. direction: in, out."""
        self.link_packets = self._counter("link_packets_total", "Packets.", "link", "direction")

    def _keeping(self) -> None:
        self.journal_offset = self._gauge("journal_offset", "Last entry on disk.", "scope")
        self.parent_away = self._gauge("parent_away_seconds", "Time without a parent, 0 while there is one.")
        self.events = self._counter("events_total", "Durable events.", "step")
        """step: made, taken (from below), passed (upwards), delivered (webhook, followers)."""
        self.event_backlog = self._gauge("event_backlog_bytes", "Events on disk not yet taken.")
        self.artifact_bytes = self._counter("artifact_bytes_total", "Bytes of artifacts moved.", "direction")
        self.artifact_corrupt = self._counter("artifact_corrupt_total", "Damaged artifacts found.", "where")
        """where: disk, transfer."""
        self.artifact_stored = self._gauge("artifact_stored_bytes", "Bytes of artifacts on disk.")

    def _training(self) -> None:
        self.round = self._gauge("round", "Training round now open.", "job")
        self.round_progress = self._gauge("round_progress", "Share of participants that reported.", "job")
        self.rounds = self._counter("rounds_total", "Training rounds ended.", "job", "outcome")
        self.updates = self._counter("updates_total", "Training updates received.", "outcome")
        self.update_bytes = self._counter("update_bytes_total", "Bytes of training updates.", "direction")
        self.train_paused = self._gauge("train_paused", "1 while training waits for serving.")

    def request_meter(self, model: str) -> RequestMeter:
        """Bound once per model: what the hot path calls."""
        return RequestMeter(self, model)

    def watch(self, name: str, help_: str, read: Callable[[], float]) -> None:
        """A gauge that is read when somebody looks: costs nothing in between."""
        self.registry.register(_Watched(f"msrt_{name}", help_, read))

    def render(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(f"msrt_{name}", help_, labels, registry=self.registry)

    def _gauge(self, name: str, help_: str, *labels: str) -> Gauge:
        return Gauge(f"msrt_{name}", help_, labels, registry=self.registry)

    def _histogram(self, name: str, help_: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"msrt_{name}", help_, labels, registry=self.registry, buckets=buckets)


class RequestMeter:
    """Counts one model's requests with children that are bound already."""

    __slots__ = ("_codes", "_metrics", "_model", "_observe", "_ok")

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics, self._model = metrics, model
        self._observe = metrics.request_seconds.labels(model).observe
        self._ok = metrics.requests.labels(model, "ok").inc
        self._codes: dict[str, Callable[[], None]] = {}

    def ok(self, seconds: float) -> None:
        """A request was answered after so many seconds."""
        self._observe(seconds)
        self._ok()

    def failed(self, code: str) -> None:
        """A request got this error (its code, of which there are few)."""
        count = self._codes.get(code)
        if count is None:
            count = self._codes[code] = self._metrics.requests.labels(self._model, code).inc
        count()


class _Watched(Collector):
    def __init__(self, name: str, help_: str, read: Callable[[], float]) -> None:
        self._name, self._help, self._read = name, help_, read

    def collect(self) -> list[Metric]:
        return [GaugeMetricFamily(self._name, self._help, value=self._read())]
