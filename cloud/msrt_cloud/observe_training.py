"""Training as series: msrt_training_*, by job. Of jobs that are over only those of the last hour: pages stay short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msrt_cloud.master import Cloud

__all__ = ["observe_training"]

Values = dict[tuple[str, ...], float]
LATELY_S: Final = 3600.0
MOST: Final = 100
"""Jobs on a page."""
GAUGES: Final[dict[str, str]] = {
    "round": "Rounds that are checkpointed.",
    "rounds": "Rounds that the job will have.",
    "reported": "Participants of the open round that have reported.",
    "expected": "Participants of the open round.",
}
LAST: Final[dict[str, str]] = {
    "loss": "Mean loss of the last round.",
    "accuracy": "Mean accuracy of the last round.",
    "worst_decile": "Mean accuracy of the tenth of the nodes that the model served worst in the last round.",
    "work": "Mean share of their epochs that nodes did in the last round.",
    "clipped": "Share of the nodes that shortened their masked update in the last round.",
    "epsilon": "What the rounds of a private job have spent.",
    "asked": "Nodes that the last round asked.",
    "eligible": "Nodes that the last round could have asked.",
    "nodes": "Nodes whose updates are in the last round.",
    "late": "Nodes in the last round with an update of an earlier one.",
    "failed": "Nodes that failed in the last round.",
    "absent": "Participants that were not heard in the last round.",
    "round_seconds": "Seconds of the last round.",
}


def observe_training(cloud: Cloud) -> None:
    """Register them with the cloud's metrics."""
    metrics = cloud.metrics
    for name, text in GAUGES.items():
        metrics.gauges(f"training_{name}", text, ("job",), _by_job(cloud, name, _row))
    for name, text in LAST.items():
        metrics.gauges(f"training_{name}", text, ("job",), _by_job(cloud, name, _last))
    metrics.gauges("training_stragglers", "Nodes that the open round waits for.", ("job",), lambda: _waiting(cloud))
    metrics.gauges("training_state", "1 at the state that a job is in.", ("job", "state"), lambda: _states(cloud))
    metrics.tally("training_bytes_total", "Bytes of a job's updates and weights at the cloud.", ("job", "direction"),
                  lambda: _bytes(cloud))  # fmt: skip
    metrics.tally("training_seconds_total", "Seconds that a job's rounds took.", ("job",),
                  lambda: {(row["job"],): row["seconds"] for row in _rows(cloud)})  # fmt: skip


def _rows(cloud: Cloud) -> list[dict[str, Any]]:
    if not cloud.ready.is_set():
        return []
    since = cloud.world.wall() - LATELY_S
    jobs = cloud.writer.state.jobs.items()
    names = [name for name, job in jobs if job.ended is None or job.ended.wall >= since]
    return [row for name in names[-MOST:] for row in cloud.training.rows(name)]


def _by_job(cloud: Cloud, name: str, read: Callable[[Cloud, dict[str, Any], str], Any]) -> Callable[[], Values]:
    def values() -> Values:
        found = {(row["job"],): read(cloud, row, name) for row in _rows(cloud)}
        return {key: float(value) for key, value in found.items() if isinstance(value, int | float)}

    return values


def _row(_cloud: Cloud, row: dict[str, Any], name: str) -> Any:
    return row[name]


def _last(cloud: Cloud, row: dict[str, Any], name: str) -> Any:
    value = cloud.training.curves.totals(row["job"]).last.get(name.removeprefix("round_"))
    return len(value) if isinstance(value, dict | list) else value


def _waiting(cloud: Cloud) -> Values:
    return {(row["job"],): float(max(0, row["expected"] - row["reported"])) for row in _rows(cloud)}


def _states(cloud: Cloud) -> Values:
    return {(row["job"], row["state"]): 1.0 for row in _rows(cloud)}


def _bytes(cloud: Cloud) -> Values:
    return {(row["job"], way): float(row[f"bytes_{way}"]) for row in _rows(cloud) for way in ("up", "down")}
