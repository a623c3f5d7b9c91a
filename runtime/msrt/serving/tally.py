"""What a master counts of the requests it answered, by model and version: the one place that knows it.

Cheap where requests end: a row is found once a batch, and each of its requests costs some additions to an object with
slots. Metrics, the protocol's statistics, what an edge tells the cloud, and the judgement of a canary are all read from
here. What is not measured is not here: devices do not say what copying in and out cost them.

A request's time is from its submission to its answer; what its batch did not compute is called its queue time (waiting
here and there, and the way between). Each request of a batch is given the whole computing time of the batch, as in
the protocol's statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msrt.protocol.messages import Inferred
from msrt.serving.backend import Batched, ModelStatistics, Took

__all__ = ["BUCKETS", "Row", "Tally", "bucket_of", "merged", "quantile", "starts", "within"]

BUCKETS: Final = 224
"""Of a latency histogram: eight for each doubling of the microseconds, the last ends at 18 minutes. A value that is
read from one is at most an eighth too large."""
_MOST_US: Final = (1 << 30) - 1
VERSIONS: Final = 64
"""Versions of one model that are kept; whose last answer is longest ago goes first."""
CODES: Final = 64
"""Error codes of one version; those beyond are counted as `other`."""
SIZES: Final = 512
"""Batch sizes of one version; those beyond are counted with the largest known."""

Histogram = Mapping[int, int]
"""Bucket to count; buckets without any are left out."""


def bucket_of(us: int) -> int:
    """The bucket of a time in microseconds."""
    if us < 8:
        return max(us, 0)
    octave = min(us, _MOST_US).bit_length() - 4
    return (octave << 3) + (min(us, _MOST_US) >> octave)


def starts(bucket: int) -> int:
    """The least time in a bucket, microseconds; it ends where the next one starts."""
    return bucket if bucket < 16 else ((bucket & 7) + 8) << ((bucket >> 3) - 1)


def quantile(counts: Histogram, share: float) -> float:
    """Microseconds that this share of the requests did not exceed, between the bounds of a bucket by proportion; 0 of
    none."""
    left = share * sum(counts.values())
    for bucket in sorted(counts):
        count = counts[bucket]
        if count and left <= count:
            low, high = starts(bucket), starts(bucket + 1)
            return low + (high - low) * max(left, 0.0) / count
        left -= count
    return 0.0


def within(counts: Histogram, bucket: int) -> int:
    """Requests up to the end of this bucket."""
    return sum(count for at, count in counts.items() if at <= bucket)


def merged(many: Iterable[Histogram]) -> dict[int, int]:
    """Of several masters, one."""
    out: dict[int, int] = {}
    for one in many:
        for bucket, count in one.items():
            out[bucket] = out.get(bucket, 0) + count
    return out


class Row:
    """One version of one model. Times are nanoseconds, summed."""

    __slots__ = (
        "_batch_ns", "_buckets", "batches", "compute_ns", "elsewhere", "executions", "fail_ns", "failures", "hit_ns",
        "hits", "inferences", "last", "miss_ns", "misses", "model", "queue_ns", "success", "success_ns", "version",
    )  # fmt: skip

    def __init__(self, model: str, version: int) -> None:
        self.model, self.version = model, version
        self.success = self.success_ns = self.queue_ns = self.compute_ns = 0
        self.executions = self.inferences = 0
        """Batches, and the rows in them."""
        self.elsewhere = 0
        """Of the successes, those that another master answered."""
        self.failures: dict[str, int] = {}
        """By error code: what callers were told."""
        self.fail_ns = 0
        self.hits = self.hit_ns = self.misses = self.miss_ns = 0
        """Of the result cache."""
        self.batches: dict[int, list[int]] = {}
        """Rows of a batch to (batches, nanoseconds of computing)."""
        self.last = 0.0
        """World.now of the last answer."""
        self._batch_ns = 0
        self._buckets = [0] * BUCKETS

    def executed(self, rows: int, compute_ns: int, now: float) -> None:
        """A batch came back; its requests follow as `answered`."""
        self.executions += 1
        self.inferences += rows
        self.last = now
        self._batch_ns = compute_ns
        batch = self.batches.get(rows)
        if batch is None:
            if len(self.batches) >= SIZES:
                rows = max(self.batches)
            batch = self.batches.setdefault(rows, [0, 0])
        batch[0] += 1
        batch[1] += compute_ns

    def answered(self, seconds: float) -> None:
        """One request of that batch."""
        ns = int(seconds * 1e9)
        compute = self._batch_ns
        self.success += 1
        self.success_ns += ns
        self.compute_ns += compute
        if ns > compute:
            self.queue_ns += ns - compute
        self._buckets[bucket_of(ns // 1000)] += 1

    def passed(self, seconds: float) -> None:
        """Another master answered it."""
        self.elsewhere += 1
        self._took(seconds)

    def hit(self, seconds: float, now: float) -> None:
        """The cache answered it."""
        self.hits += 1
        self.hit_ns += int(seconds * 1e9)
        self.last = now
        self._took(seconds)

    def missed(self, seconds: float) -> None:
        """The cache did not have it: what looking and keeping cost beside the request itself."""
        self.misses += 1
        self.miss_ns += int(seconds * 1e9)

    def failed(self, code: str, seconds: float) -> None:
        """The caller got this error."""
        if code not in self.failures and len(self.failures) >= CODES:
            code = "other"
        self.failures[code] = self.failures.get(code, 0) + 1
        self.fail_ns += int(seconds * 1e9)

    def _took(self, seconds: float) -> None:
        ns = int(seconds * 1e9)
        self.success += 1
        self.success_ns += ns
        self._buckets[bucket_of(ns // 1000)] += 1

    @property
    def failed_in_all(self) -> int:
        """Requests that got an error, whichever."""
        return sum(self.failures.values())

    @property
    def histogram(self) -> dict[int, int]:
        """Times of the successes."""
        return {bucket: count for bucket, count in enumerate(self._buckets) if count}

    def statistics(self, now: float, wall: float) -> ModelStatistics:
        """As the protocol says it; `wall` is the time of day at `now`."""
        computed = self.success - self.hits - self.elsewhere
        batches = [Batched(size, Took(), Took(count, ns), Took()) for size, (count, ns) in sorted(self.batches.items())]
        return ModelStatistics(
            self.model, self.version, int((wall - (now - self.last)) * 1000) if self.last else 0,
            self.inferences, self.executions,
            success=Took(self.success, self.success_ns), fail=Took(self.failed_in_all, self.fail_ns),
            queue=Took(computed, self.queue_ns), compute_infer=Took(computed, self.compute_ns),
            cache_hit=Took(self.hits, self.hit_ns), cache_miss=Took(self.misses, self.miss_ns), batch_stats=batches,
        )  # fmt: skip


class Tally:
    """All rows of one master, since it started."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[int, Row]] = {}
        self._serving: dict[str, int] = {}

    def serves(self, model: str, version: int) -> None:
        """This version is meant by requests that name none: their failures count as its own. 0: none is any more."""
        if version:
            self._serving[model] = version
        else:
            self._serving.pop(model, None)

    def row(self, model: str, version: int) -> Row:
        """The row of a version, made where there is none. Callers pass names that exist: a row is never for asking."""
        version = version or self._serving.get(model, 0)
        versions = self._rows.get(model)
        if versions is None:
            versions = self._rows[model] = {}
        row = versions.get(version)
        if row is None:
            if len(versions) >= VERSIONS:
                del versions[min(versions, key=lambda old: versions[old].last)]
            row = versions[version] = Row(model, version)
        return row

    def batch(self, model: str, answer: Inferred, now: float) -> Row:
        """A batch came back: the row whose `answered` is told of each of its requests."""
        row = self.row(model, answer.version)
        row.executed(sum(answer.rows), answer.compute_us * 1000, now)
        return row

    def rows(self, model: str = "", version: int = 0) -> list[Row]:
        """By name and version; all, a model's, or one."""
        names = [model] if model else sorted(self._rows)
        found = [row for name in names for _, row in sorted(self._rows.get(name, {}).items())]
        return [row for row in found if version in (0, row.version)]

    def statistics(self, model: str, version: int, now: float, wall: float) -> Sequence[ModelStatistics]:
        """For `Models.statistics`; `version` 0: all of them."""
        return [row.statistics(now, wall) for row in self.rows(model, version)]
