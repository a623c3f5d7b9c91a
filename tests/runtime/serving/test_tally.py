"""What a master counts: cheap where requests end, right when somebody looks."""

from __future__ import annotations

import random
import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from msrt.protocol.messages import Inferred
from msrt.serving.tally import (
    BUCKETS,
    CODES,
    SIZES,
    VERSIONS,
    Row,
    Tally,
    bucket_of,
    merged,
    quantile,
    starts,
    within,
)
from msrt.telemetry.serving import page


def answer(version=1, rows=(1,), compute_us=2000):
    return Inferred(tuple(range(len(rows))), rows, "net", version, "fp32", "d", (), compute_us)


def served(tally, seconds, **more):
    row = tally.batch("net", answer(**more), 10.0)
    for one in seconds:
        row.answered(one)
    return row


@given(st.integers(0, 1 << 40))
def test_every_time_has_one_bucket_an_eighth_wide_at_most(us):
    """Buckets follow each other without a gap, and bound the error of whoever reads one."""
    bucket = bucket_of(us)
    assert 0 <= bucket < BUCKETS
    assert starts(bucket) <= min(us, (1 << 30) - 1) < starts(bucket + 1)
    assert starts(bucket + 1) - starts(bucket) <= max(1, starts(bucket) / 8)


@given(st.lists(st.integers(1, 10_000_000), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_near_the_true_one(times, share):
    """At most a bucket from what sorting would say."""
    row = Row("net", 1)
    for us in times:
        row.answered((us + 0.5) / 1e6)
    true = sorted(times)[min(len(times) - 1, max(0, -int(-share * len(times) // 1) - 1))]
    assert true * 0.875 - 1 <= quantile(row.histogram, share) <= true * 1.125 + 1


def test_histograms_of_several_masters_add_up():
    """Merged is as if one had counted all; nothing gives no number."""
    one, other = {3: 2, 9: 1}, {9: 4}
    assert merged([one, other]) == {3: 2, 9: 5}
    assert within(merged([one, other]), 8) == 2
    assert quantile({}, 0.99) == 0.0


def test_a_request_is_its_queue_and_its_batchs_computing():
    """Two requests of a batch: each has the whole computing time, the rest is called queue."""
    row = served(Tally(), [0.010, 0.003], rows=(1, 3))
    assert (row.success, row.executions, row.inferences) == (2, 1, 4)
    assert (row.success_ns, row.compute_ns, row.queue_ns) == (13_000_000, 4_000_000, 9_000_000)
    assert row.batches == {4: [1, 2_000_000]}


def test_the_protocols_statistics_say_what_was_measured():
    """Triton's fields; what copying in and out costs is not known and stays at none."""
    tally = Tally()
    row = served(tally, [0.010], rows=(2,))
    row.failed("overloaded", 0.001)
    row.hit(0.0001, 11.0)
    row.missed(0.0002)
    (said,) = tally.statistics("net", 1, 12.0, 1000.0)
    assert (said.inference_count, said.execution_count, said.last_inference) == (2, 1, 999_000)
    assert (said.success.count, said.fail.count, said.cache_hit.count, said.cache_miss.count) == (2, 1, 1, 1)
    assert (said.queue.count, said.compute_infer.count, said.compute_input.count) == (1, 1, 0)
    assert [(b.batch_size, b.compute_infer.count) for b in said.batch_stats] == [(2, 1)]


def test_a_failure_without_a_version_counts_for_the_one_that_serves():
    """Nobody answered, so nobody said which version: it is the one in force."""
    tally = Tally()
    tally.serves("net", 7)
    tally.row("net", 0).failed("overloaded", 0.1)
    assert [(row.version, row.failures) for row in tally.rows()] == [(7, {"overloaded": 1})]


def test_a_hundred_updates_do_not_fill_the_memory():
    """Versions, codes and batch sizes are bounded; nothing that was counted in all is lost with the last two."""
    tally = Tally()
    for version in range(1, 3 * VERSIONS):
        tally.batch("net", answer(version), float(version)).answered(0.001)
    assert [row.version for row in tally.rows("net")] == list(range(2 * VERSIONS, 3 * VERSIONS))
    row = tally.row("net", 3 * VERSIONS - 1)
    for number in range(2 * CODES):
        row.failed(f"code{number}", 0.0)
    assert row.failed_in_all == 2 * CODES
    assert len(row.failures) <= CODES + 1
    for number in range(2, 3 * SIZES):
        row.executed(number, 1, 1.0)
    assert len(row.batches) <= SIZES
    assert sum(count for count, _ in row.batches.values()) == row.executions


def test_counting_a_request_is_cheap():
    """A request costs less than two microseconds, even on a busy machine."""
    row = served(Tally(), [])
    assert min(timeit.repeat(lambda: row.answered(0.003), number=2000, repeat=20)) / 2000 < 4e-6


def samples(tally, pending=None):
    text = page(tally.rows(), pending or {})
    found = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            name = one.name.removesuffix("_total") if one.name.startswith("nv_") else one.name  # the parser adds it
            found[name, *sorted(one.labels.values())] = one.value
    return found, text


def test_prometheus_reads_it_under_both_names():
    """Ours, and those that existing dashboards ask for, with model and version."""
    tally = Tally()
    row = served(tally, [0.003, 0.300], version=2, rows=(1, 1))
    row.failed("overloaded", 0.1)
    found, text = samples(tally, {("net", 2): 5})
    assert found["msrt_requests_total", "2", "net", "ok"] == 2
    assert found["msrt_requests_total", "2", "net", "overloaded"] == 1
    assert found["msrt_request_seconds_bucket", "0.004096", "2", "net"] == 1
    assert found["msrt_request_seconds_count", "2", "net"] == 2
    assert found["nv_inference_request_success", "2", "net"] == 2
    assert found["nv_inference_request_failure", "2", "net", "overloaded"] == 1
    assert found["nv_inference_request_duration_us", "2", "net"] == pytest.approx(303_000, abs=2)
    assert found["nv_inference_compute_infer_duration_us", "2", "net"] == 4000
    assert found["nv_inference_exec_count", "2", "net"] == 1
    assert found["nv_inference_pending_request_count", "2", "net"] == 5
    assert "# TYPE nv_inference_request_success counter" in text


def test_what_is_not_measured_is_not_exported():
    """No line for the copying of tensors, and none of the cache for a model that has none."""
    tally = Tally()
    row = served(tally, [0.003])
    _, text = samples(tally)
    assert "compute_input" not in text
    assert "compute_output" not in text
    assert "nv_cache_num_hits_per_model{" not in text
    row.hit(0.0001, 1.0)
    row.missed(0.0002)
    found, _ = samples(tally)
    assert found["nv_cache_num_hits_per_model", "1", "net"] == 1
    assert found["nv_cache_miss_duration_per_model", "1", "net"] == 200


def test_a_strange_name_cannot_break_the_page():
    """Quotes and line ends in a name or code are escaped."""
    tally = Tally()
    tally.row('a"b\\c\nd', 1).failed('x"', 0.0)
    found, _ = samples(tally)
    assert found["msrt_requests_total", "1", 'a"b\\c\nd', 'x"'] == 1


def test_random_traffic_adds_up():
    """Whatever happens, the histogram holds each success once."""
    rng, tally = random.Random(1), Tally()
    for _ in range(500):
        row = served(tally, [rng.expovariate(100) for _ in range(rng.randrange(4))])
        kind = rng.randrange(3)
        if kind == 0:
            row.hit(rng.random(), 1.0)
        elif kind == 1:
            row.failed("x", rng.random())
        else:
            row.passed(rng.random())
    assert sum(row.histogram.values()) == row.success
