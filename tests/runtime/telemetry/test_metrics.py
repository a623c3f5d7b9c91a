from __future__ import annotations

import timeit

from prometheus_client.parser import text_string_to_metric_families

from msrt.telemetry import Metrics


def samples(metrics):
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, frozenset(s.labels.values())): s.value for family in families for s in family.samples}


def test_a_request_meter_counts_and_times():
    """Answers and errors, by model."""
    metrics = Metrics()
    meter = metrics.request_meter("digits")
    meter.ok(0.003)
    meter.ok(0.3)
    meter.failed("overloaded")
    meter.failed("overloaded")
    found = samples(metrics)
    assert found["msrt_requests_total", frozenset({"digits", "ok"})] == 2
    assert found["msrt_requests_total", frozenset({"digits", "overloaded"})] == 2
    assert found["msrt_request_seconds_bucket", frozenset({"digits", "0.004"})] == 1
    assert found["msrt_request_seconds_count", frozenset({"digits"})] == 2


def test_nodes_in_one_process_do_not_mix():
    """A simulation has thousands of nodes: each counts for itself."""
    one, two = Metrics("edge", "a"), Metrics("edge", "b")
    one.leases.labels("device").set(3)
    assert samples(one)["msrt_leases", frozenset({"device"})] == 3
    assert ("msrt_leases", frozenset({"device"})) not in samples(two)


def test_a_watched_gauge_is_read_when_looked_at():
    """It costs nothing between two looks and is never stale."""
    metrics, depth = Metrics(), [1.0]
    metrics.watch("backlog", "How much.", lambda: depth[0])
    assert samples(metrics)["msrt_backlog", frozenset()] == 1.0
    depth[0] = 7.0
    assert samples(metrics)["msrt_backlog", frozenset()] == 7.0


def test_it_says_who_it_is():
    """Role and node stand on the page."""
    assert samples(Metrics("edge", "abc"))["msrt_node_info", frozenset({"edge", "abc"})] == 1


def test_a_real_process_shows_its_memory():
    """Resident memory and CPU, where asked for."""
    assert samples(Metrics(process=True))["process_resident_memory_bytes", frozenset()] > 1 << 20


def test_the_issues_words_are_all_there():
    """Requests, latency, queues, leases, bytes per link, round progress, model versions, loop lag."""
    metrics = Metrics()
    metrics.tally("link_bytes_total", "Bytes of packets.", ("link", "direction"), lambda: {("zmq", "in"): 3.0})
    page = metrics.render().decode()
    assert 'msrt_link_bytes_total{direction="in",link="zmq"} 3.0' in page
    for name in (
        "requests_total", "request_seconds", "queue_depth", "leases", "link_bytes_total", "round_progress",
        "model_version", "loop_lag_seconds",
    ):  # fmt: skip
        assert f"# TYPE msrt_{name} " in page


def test_the_hot_path_is_cheap():
    """One count and one observation take a few microseconds, even on a busy machine."""
    meter = Metrics().request_meter("digits")
    best = min(timeit.repeat(lambda: meter.ok(0.003), number=1000, repeat=20)) / 1000
    assert best < 20e-6
