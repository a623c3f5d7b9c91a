"""A master's tally as Prometheus text: under our names, and under those that Triton's dashboards ask for.

Written out here rather than by the client library, which would add `_total` to counters whose names are given. What is
not measured (the time to copy tensors in and out of the engine) has no line: a zero would be a lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from msrt.serving.tally import Row, Tally, bucket_of

__all__ = ["page", "shown"]

BOUNDS: Final = tuple((1 << power, bucket_of(1 << power)) for power in range(8, 25))
"""Microseconds at which a bucket of the histogram ends, and the first bucket beyond."""
Pending = Mapping[tuple[str, int], int]
Reader = Callable[[Row], float]

COUNTERS: Final[tuple[tuple[str, str, Reader], ...]] = (
    ("msrt_batches_answered_total", "Batches whose answers were used.", lambda row: row.executions),
    ("msrt_rows_total", "Rows in them.", lambda row: row.inferences),
    ("msrt_compute_seconds_total", "Computing, once for each batch.", lambda row: _computed(row) / 1e9),
    ("msrt_answered_elsewhere_total", "Requests that another master answered.", lambda row: row.elsewhere),
    ("msrt_cache_requests_total", "Requests of models with a result cache.", lambda row: row.hits + row.misses),
    ("msrt_cache_hits_total", "Of these, answered by it.", lambda row: row.hits),
    ("nv_inference_request_success", "Requests answered.", lambda row: row.success),
    ("nv_inference_count", "Rows computed; not those from the cache.", lambda row: row.inferences),
    ("nv_inference_exec_count", "Batches computed.", lambda row: row.executions),
    ("nv_inference_request_duration_us", "From submission to answer, summed.", lambda row: row.success_ns // 1000),
    ("nv_inference_queue_duration_us", "All of it but computing, summed.", lambda row: row.queue_ns // 1000),
    (
        "nv_inference_compute_infer_duration_us", "Computing, the batch's whole time for each of its requests, summed.",
        lambda row: row.compute_ns // 1000,
    ),
    ("nv_cache_num_hits_per_model", "Requests that the result cache answered.", lambda row: row.hits),
    ("nv_cache_num_misses_per_model", "Requests that it could not.", lambda row: row.misses),
    ("nv_cache_hit_duration_per_model", "Microseconds that hits took.", lambda row: row.hit_ns // 1000),
    ("nv_cache_miss_duration_per_model", "Microseconds of looking and keeping.", lambda row: row.miss_ns // 1000),
)  # fmt: skip
CACHE: Final = "cache"
"""Only of versions that have one."""
NOTHING: Final[Pending] = {}


def shown(tally: Tally, pending: Callable[[], Pending] = lambda: NOTHING) -> Callable[[], bytes]:
    """For `Metrics.text`. `pending`: requests that wait, by model and version."""
    return lambda: page(tally.rows(), pending()).encode()


def page(rows: Iterable[Row], pending: Pending) -> str:
    """All lines, each family once."""
    rows = list(rows)
    return "".join(f"{line}\n" for line in _lines(rows, pending))


def _lines(rows: list[Row], pending: Pending) -> Iterator[str]:
    yield from _head("msrt_requests_total", "Requests by outcome: ok, or the error's code.", "counter")
    for row in rows:
        yield f'msrt_requests_total{{{_labels(row)},code="ok"}} {row.success}'
        for code, count in row.failures.items():
            yield f'msrt_requests_total{{{_labels(row)},code="{_quoted(code)}"}} {count}'
    yield from _head("msrt_request_seconds", "Time to the answer.", "histogram")
    for row in rows:
        yield from _histogram(row)
    for name, text, read in COUNTERS:
        yield from _head(name, text, "counter")
        for row in rows:
            if CACHE not in name or row.hits or row.misses:
                yield f"{name}{{{_labels(row)}}} {read(row)}"
    yield from _head("nv_inference_request_failure", "Requests that got an error; reason: its code.", "counter")
    for row in rows:
        for code, count in row.failures.items():
            yield f'nv_inference_request_failure{{{_labels(row)},reason="{_quoted(code)}"}} {count}'
    yield from _head("nv_inference_pending_request_count", "Requests that wait for a device.", "gauge")
    for (model, version), count in pending.items():
        labels = f'model="{_quoted(model)}",version="{version}"'
        yield f"nv_inference_pending_request_count{{{labels}}} {count}"


def _histogram(row: Row) -> Iterator[str]:
    labels, counts, below, at = _labels(row), sorted(row.histogram.items()), 0, 0
    for us, beyond in BOUNDS:
        while at < len(counts) and counts[at][0] < beyond:
            below += counts[at][1]
            at += 1
        yield f'msrt_request_seconds_bucket{{{labels},le="{us / 1e6}"}} {below}'
    yield f'msrt_request_seconds_bucket{{{labels},le="+Inf"}} {row.success}'
    yield f"msrt_request_seconds_sum{{{labels}}} {row.success_ns / 1e9}"
    yield f"msrt_request_seconds_count{{{labels}}} {row.success}"


def _computed(row: Row) -> int:
    return sum(ns for _, ns in row.batches.values())


def _head(name: str, text: str, kind: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _labels(row: Row) -> str:
    return f'model="{_quoted(row.model)}",version="{row.version}"'


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
