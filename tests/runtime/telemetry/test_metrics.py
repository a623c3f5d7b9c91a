from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from msrt.serving.tally import Tally
from msrt.telemetry import Metrics
from msrt.telemetry.serving import shown


def samples(metrics):
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, frozenset(s.labels.values())): s.value for family in families for s in family.samples}


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
    metrics.text(shown(Tally()))
    metrics.tally("link_bytes_total", "Bytes of packets.", ("link", "direction"), lambda: {("zmq", "in"): 3.0})
    page = metrics.render().decode()
    assert 'msrt_link_bytes_total{direction="in",link="zmq"} 3.0' in page
    for name in (
        "requests_total", "request_seconds", "queue_depth", "leases", "link_bytes_total", "round_progress",
        "model_version", "loop_lag_seconds",
    ):  # fmt: skip
        assert f"# TYPE msrt_{name} " in page
