"""What the cloud knows of the tree and of training, shown at /metrics; nothing here runs until somebody looks."""

from __future__ import annotations

from collections import Counter

from msrt.protocol.messages import DeviceRecord
from msrt.telemetry.dispatching import batch_rows, watch_dispatcher
from msrt.telemetry.trusting import observe_trust
from msrt_cloud.master import Cloud
from msrt_cloud.observe_training import observe_training

__all__ = ["observe"]

Values = dict[tuple[str, ...], float]
KEPT = ("accuracy", "loss", "update_bytes")
"""Of a round's metrics, which may be anything a task says, those that become series."""


def observe(cloud: Cloud) -> None:
    """Register the cloud's counts with its metrics."""
    metrics = cloud.metrics
    watch_dispatcher(metrics, lambda: cloud.serving.dispatcher if cloud.ready.is_set() else None)
    metrics.text(batch_rows(lambda: cloud.serving.tally if cloud.ready.is_set() else None))
    metrics.gauges("edges", "Edges that ever joined, by region and whether they are here.", ("region", "state"),
                   lambda: _edges(cloud))  # fmt: skip
    metrics.gauges("devices", "Devices that edges speak of, by region and whether they live.", ("region", "state"),
                   lambda: _devices(cloud))  # fmt: skip
    metrics.gauges("device_models", "Devices by the state of a model version on them.", ("model", "version", "state"),
                   lambda: _models(cloud))  # fmt: skip
    metrics.gauges("follower_lag_entries", "Journal entries that an edge does not have on disk yet.", ("region",),
                   lambda: _lag(cloud))  # fmt: skip
    metrics.gauges("rollouts", "Rollouts in force, by state.", ("state",), lambda: _rollouts(cloud))
    observe_training(cloud)
    observe_trust(metrics, lambda: cloud.trust if cloud.ready.is_set() else None)
    metrics.gauges("jobs", "Training jobs, by state.", ("state",), lambda: _jobs(cloud))
    metrics.gauges("round_reported", "Participants of the open round that have reported.", ("job",),
                   lambda: _rounds(cloud, "reported"))  # fmt: skip
    metrics.gauges("round_expected", "Participants of the open round.", ("job",), lambda: _rounds(cloud, "expected"))
    metrics.gauges("job_metric", "What the last closed round says of itself.", ("job", "metric"),
                   lambda: _curves(cloud))  # fmt: skip


def _edges(cloud: Cloud) -> Values:
    found = Counter((edge.region, "here" if edge.alive else "away") for edge in cloud.fleet.edges.values())
    return {key: float(count) for key, count in found.items()}


def _living(cloud: Cloud) -> dict[str, tuple[str, DeviceRecord]]:
    """Device to region and record; where several edges speak of one, who says that it lives is believed."""
    out: dict[str, tuple[str, DeviceRecord]] = {}
    for edge in cloud.fleet.edges.values():
        for node, record in edge.devices.items():
            if node not in out or (record.alive and edge.alive):
                out[node] = edge.region, record
    return out


def _devices(cloud: Cloud) -> Values:
    found = Counter((region, "alive" if record.alive else "away") for region, record in _living(cloud).values())
    return {key: float(count) for key, count in found.items()}


def _models(cloud: Cloud) -> Values:
    found = Counter(
        (held.model, str(held.version), held.state)
        for _, record in _living(cloud).values()
        if record.alive
        for held in record.models
    )
    return {key: float(count) for key, count in found.items()}


def _lag(cloud: Cloud) -> Values:
    if not cloud.ready.is_set():
        return {}
    positions = cloud.writer.log.positions
    out: Values = {}
    for edge in cloud.fleet.edges.values():
        behind = sum(max(0, positions.get(scope, 0) - offset) for scope, offset in edge.position.items())
        out[(edge.region,)] = max(out.get((edge.region,), 0.0), float(behind))
    return out


def _rollouts(cloud: Cloud) -> Values:
    if not cloud.ready.is_set():
        return {}
    state = cloud.writer.state
    regions = {edge.region for edge in cloud.fleet.edges.values()} | {""}
    found = {
        (r.model, r.version, r.selector): r.state for region in regions for r in state.rollouts_in(region).values()
    }
    return {(name,): float(count) for name, count in Counter(found.values()).items()}


def _jobs(cloud: Cloud) -> Values:
    if not cloud.ready.is_set():
        return {}
    return {(name,): float(count) for name, count in Counter(row["state"] for row in cloud.training.rows("")).items()}


def _rounds(cloud: Cloud, what: str) -> Values:
    if not cloud.ready.is_set():
        return {}
    return {(row["job"],): float(row[what]) for row in cloud.training.rows("") if row["state"] == "running"}


def _curves(cloud: Cloud) -> Values:
    if not cloud.ready.is_set():
        return {}
    out: Values = {}
    for row in cloud.training.rows(""):
        for name in KEPT:
            value = row["metrics"].get(name)
            if isinstance(value, int | float):
                out[row["job"], name] = float(value)
    return out
