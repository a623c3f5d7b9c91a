"""Everything a node counts, in one object with its own registry: a simulation has many nodes in one process.

A `labels()` call costs more than the count: keep the child. What a part counts by itself, as requests are counted in
`msrt.serving.tally`, is only read when somebody looks (`watch`, `tally`, `text`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "Metrics", "Tally"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
Tally = Mapping[tuple[str, ...], float]
LAG: Final = (.001, .002, .005, .01, .02, .05, .1, .25, 1.0)  # fmt: skip


class Metrics:
    """The metrics of one node. Every name begins with `msrt_`; each attribute's comment says what its labels are."""

    def __init__(self, role: str = "", node: str = "", *, process: bool = False) -> None:
        """`process`: also memory, CPU and open files; for the one node of a real process."""
        self.registry = CollectorRegistry()
        self._texts: list[Callable[[], bytes]] = []
        self._serving()
        self._keeping()
        self._training()
        self.info = self._gauge("node_info", "Who this is, always 1.", "role", "node")
        self.info.labels(role, node).set(1)
        self.loop_lag = self._histogram("loop_lag_seconds", "How late the event loop woke up.", LAG)
        if process:
            ProcessCollector(registry=self.registry)

    def _serving(self) -> None:
        self.model_version = self._gauge("model_version", "Version that takes traffic.", "model", "variant")
        self.queue_depth = self._gauge("queue_depth", "Waiting now.", "queue")

    def _keeping(self) -> None:
        self.leases = self._gauge("leases", "Workers that live.", "role")
        self.journal_offset = self._gauge("journal_offset", "Last entry on disk.", "scope")
        self.parent_away = self._gauge("parent_away_seconds", "Time without a parent, 0 while there is one.")
        self.event_backlog = self._gauge("event_backlog_bytes", "Events on disk not yet taken.")
        self.artifact_stored = self._gauge("artifact_stored_bytes", "Bytes of artifacts on disk.")

    def _training(self) -> None:
        self.round = self._gauge("round", "Training round now open.", "job")
        self.round_progress = self._gauge("round_progress", "Share of participants that reported.", "job")

    def watch(self, name: str, help_: str, read: Callable[[], float]) -> None:
        """A gauge that is read when somebody looks: costs nothing in between."""
        self.registry.register(_Watched(f"msrt_{name}", help_, read))

    def tally(self, name: str, help_: str, labels: tuple[str, ...], read: Callable[[], Tally]) -> None:
        """A counter whose numbers a part keeps by itself: read when somebody looks, label values to number."""
        self.registry.register(_Tallied(f"msrt_{name}", help_, labels, read))

    def gauges(self, name: str, help_: str, labels: tuple[str, ...], read: Callable[[], Tally]) -> None:
        """The same for numbers that rise and fall."""
        self.registry.register(_Tallied(f"msrt_{name}", help_, labels, read, GaugeMetricFamily))

    def text(self, write: Callable[[], bytes]) -> None:
        """Lines that a part writes by itself, of families that are nowhere else."""
        self._texts.append(write)

    def render(self) -> bytes:
        """All of it in Prometheus' text format."""
        return b"".join([generate_latest(self.registry), *(text() for text in self._texts)])

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(f"msrt_{name}", help_, labels, registry=self.registry)

    def _gauge(self, name: str, help_: str, *labels: str) -> Gauge:
        return Gauge(f"msrt_{name}", help_, labels, registry=self.registry)

    def _histogram(self, name: str, help_: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"msrt_{name}", help_, labels, registry=self.registry, buckets=buckets)


class _Tallied(Collector):
    def __init__(
        self, name: str, help_: str, labels: tuple[str, ...], read: Callable[[], Tally],
        kind: type[CounterMetricFamily | GaugeMetricFamily] = CounterMetricFamily,
    ) -> None:  # fmt: skip
        self._name, self._help, self._labels, self._read, self._kind = name, help_, labels, read, kind

    def describe(self) -> list[Metric]:
        return [self._kind(self._name, self._help, labels=self._labels)]

    def collect(self) -> list[Metric]:
        family = self._kind(self._name, self._help, labels=self._labels)
        for values, number in self._read().items():
            family.add_metric(values, number)
        return [family]


class _Watched(Collector):
    def __init__(self, name: str, help_: str, read: Callable[[], float]) -> None:
        self._name, self._help, self._read = name, help_, read

    def collect(self) -> list[Metric]:
        return [GaugeMetricFamily(self._name, self._help, value=self._read())]
