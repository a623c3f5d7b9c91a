"""Traces over real processes: a tree that sends its spans to a collector of ours."""

from __future__ import annotations

import http.client
import json
import re
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import pytest

import msrt
from msrt.telemetry.context import parse
from tests.bench.tree import BODY, Tree, until
from tests.processes.collector import Collector

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def told():
    """A collector, and a region with two devices that sends it what callers ask for, and nothing else."""
    with Collector() as collector, Tree() as tree:
        edge = tree.edge("edge", "north", "--trace", collector.url, "--set", "trace_share=0", "--set", "record_share=1")
        tree.device("one", "north")
        tree.device("two", "north")
        tree.push()
        url = edge.field("http")
        tree.serving(url, devices=2)
        yield collector, tree, url


def ask(url, model="mlp", body=None, **headers):
    """Status, headers, decoded body."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    try:
        said = {"content-type": "application/json", **{name.replace("_", "-"): v for name, v in headers.items()}}
        connection.request("POST", f"/v2/models/{model}/infer", body or BODY, said)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), json.loads(answer.read())
    finally:
        connection.close()


def metric(url, line):
    """One line of /metrics as a number, 0 without it."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    return next((float(row.split()[-1]) for row in page.splitlines() if row.startswith(line)), 0.0)


def test_a_request_is_one_trace_from_the_caller_to_the_device(told):
    """One id, each span below the one that asked for it, the caller's span above all."""
    collector, _, url = told
    status, headers, body = ask(url, traceparent=PARENT, tracestate="vendor=x")
    assert status == 200
    spans = collector.of(TRACE, "infer", "queue", "attempt", "device", "device.queue", "device.compute")
    by = {span.name: span for span in spans}
    assert len(by) == len(spans) == 6
    assert by["infer"].parent == "00f067aa0ba902b7"
    assert by["queue"].parent == by["attempt"].parent == by["infer"].span
    assert by["device"].parent == by["attempt"].span
    assert by["device.queue"].parent == by["device.compute"].parent == by["device"].span
    assert headers["traceparent"] == f"00-{TRACE}-{by['infer'].span}-01" == body["parameters"]["traceparent"]
    assert {span.service for span in spans} == {"msrt-edge", "msrt-device"}
    assert {span.state for span in spans} == {"vendor=x"}
    said = by["attempt"].attributes
    assert (said["msrt.device"], said["msrt.reason"], said["msrt.outcome"]) == (
        body["parameters"]["device"], "first", "ok",
    )  # fmt: skip
    assert said["msrt.region"] == "north"


def test_the_parts_add_up(told):
    """Waiting and computing lie inside the device's span, that inside the try, and all of it inside the request."""
    collector, _, url = told
    trace = "1" * 32
    _, _, body = ask(url, traceparent=f"00-{trace}-{'2' * 16}-01")
    by = {span.name: span for span in collector.of(trace, "infer", "queue", "attempt", "device", "device.compute")}
    for inner, outer in (
        ("device.queue", "device"), ("device.compute", "device"), ("device", "attempt"), ("attempt", "infer"),
        ("queue", "infer"),
    ):  # fmt: skip
        assert by[outer].began <= by[inner].began <= by[inner].ended <= by[outer].ended
    parts = by["device.queue"].took + by["device.compute"].took
    assert by["device"].took == pytest.approx(parts, abs=1e-5)
    way = by["attempt"].attributes["msrt.way_us"] / 1e6
    assert by["attempt"].took == pytest.approx(parts + way, abs=1e-5)
    told_us = body["parameters"]
    assert told_us["trace_compute_us"] == pytest.approx(by["device.compute"].took * 1e6, abs=2)
    assert told_us["trace_total_us"] == pytest.approx(by["infer"].took * 1e6, abs=2)
    assert told_us["trace_attempts"] == 1


def test_a_caller_over_zeromq_is_traced_as_well(told):
    """The context rides in the message, and comes back as a mark."""
    collector, tree, _ = told
    trace = "3" * 32
    with msrt.connect(state=tree.path / "cloud" / "operator") as client:
        answer = client.infer("mlp", np.zeros((2, 64), np.float32), trace=f"00-{trace}-{'4' * 16}-01")
    by = {span.name: span for span in collector.of(trace, "infer", "attempt", "device.compute")}
    assert by["infer"].parent == "4" * 16
    assert answer.marks["traceparent"] == f"00-{trace}-{by['infer'].span}-01"
    assert by["attempt"].attributes["msrt.batch_rows"] == 2


def test_who_does_not_ask_is_not_traced(told):
    """No span is made, for a caller that says no as for one that says nothing where the share is 0; nor is anything
    added to the answer."""
    collector, _, url = told
    until(
        "the collector has what was made", lambda: metric(url, 'msrt_spans_total{step="sent"}') == len(collector.spans)
    )
    before = len(collector.spans)
    for headers in ({}, {"traceparent": PARENT[:-1] + "0"}, {"traceparent": "nonsense"}):
        for _ in range(20):
            status, said, body = ask(url, **headers)
            assert status == 200
            assert "traceparent" not in said
            assert "traceparent" not in body["parameters"]
    ask(url, traceparent=f"00-{'5' * 32}-{'6' * 16}-01")
    after = collector.of("5" * 32, "infer", "device", "device.compute", "device.queue", "attempt", "queue")
    assert len(collector.spans) == before + len(after)


def tried_twice(collector, url):
    """The tries of a request that was tried again. As many are asked for at once as make every device take some."""
    traces = [uuid.uuid4().hex for _ in range(8)]
    with ThreadPoolExecutor(len(traces)) as pool:
        list(pool.map(lambda trace: ask(url, traceparent=f"00-{trace}-{'7' * 16}-01"), traces))
    for trace in traces:
        tries = [span for span in collector.of(trace, "infer", "attempt") if span.name == "attempt"]
        if len(tries) > 1:
            return sorted(tries, key=lambda span: span.attributes["msrt.attempt"])
    return None


def test_a_retry_is_a_second_try_on_another_device(told):
    """A stopped device is asked, falls silent, and another one answers: both tries are there, the first with why."""
    collector, tree, url = told
    stopped, other = "one", "two"
    victim = tree.procs[stopped]
    victim.signal(signal.SIGSTOP)
    try:
        first, second, *_ = until("a request was tried twice", lambda: tried_twice(collector, url))
        assert first.attributes["msrt.device"] == stopped
        assert first.attributes["msrt.outcome"] in ("stalled", "lost_race", "disconnected")
        assert second.attributes["msrt.reason"] in ("retry", "hedge")
        assert (second.attributes["msrt.device"], second.attributes["msrt.outcome"]) == (other, "ok")
        assert first.parent == second.parent
        assert (first.attributes["msrt.attempt"], second.attributes["msrt.attempt"]) == (1, 2)
    finally:
        victim.signal(signal.SIGCONT)


def test_decisions_are_lines_in_a_file(told):
    """With what was seen, what was chosen and what came of it."""
    _, tree, url = told
    path = tree.path / "edge" / "decisions.jsonl"
    ask(url)
    until("it is written", path.is_file)

    def both():
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        made = {line["id"]: line for line in lines if line["kind"] == "decision"}
        came = {line["id"]: line for line in lines if line["kind"] == "outcome"}
        return [(made[number], came[number]) for number in made.keys() & came.keys()]

    made, came = until("a decision with its outcome", both)[0]
    assert abs(made["at"] - time.time()) < 600
    assert made["chosen"] in {one["worker"] for one in made["candidates"]}
    assert came["at"] >= made["at"]
    assert came["seconds"] > 0


@pytest.mark.slow
def test_a_collector_that_is_away_costs_nothing_but_spans():
    """Every request is answered, what is lost is counted, and the edge still stops in time."""
    with Tree() as tree:
        edge = tree.edge("edge", "north", "--trace", "http://127.0.0.1:9", "--set", "trace_share=1")
        tree.device("one", "north")
        tree.push()
        url = edge.field("http")
        tree.serving(url)
        for _ in range(100):
            assert ask(url)[0] == 200
        until("lost spans are counted", lambda: metric(url, 'msrt_spans_total{step="dropped"}') > 0)
        began = time.monotonic()
        edge.signal(signal.SIGTERM)
        assert edge.popen.wait(10) == 0
        assert time.monotonic() - began < 8


def test_the_caller_is_the_root_where_it_has_a_collector(told):
    """Its span is above the edge's, over ZeroMQ as over HTTP, and one covers all of many."""
    collector, tree, url = told
    x = np.zeros((1, 64), np.float32)
    for urls, state in (((), tree.path / "cloud" / "operator"), ((url,), None)):
        with msrt.connect(urls, state=state, trace=collector.url, trace_share=1) as client:
            trace = parse(client.infer("mlp", x).marks["traceparent"]).trace_id
            many = client.infer_many("mlp", [x, x, x])
        by = {span.name: span for span in collector.of(f"{trace:032x}", "client.infer", "infer", "device.compute")}
        assert (by["client.infer"].parent, by["client.infer"].service) == ("", "msrt-client")
        assert by["infer"].parent == by["client.infer"].span
        assert by["client.infer"].took >= by["infer"].took
        (trace,) = {parse(answer.marks["traceparent"]).trace_id for answer in many}
        spans = collector.of(f"{trace:032x}", "client.infer_many", "infer", "device.compute")
        assert [span.attributes["msrt.requests"] for span in spans if span.name == "client.infer_many"] == [3]
        assert len([span for span in spans if span.name == "infer"]) == 3


def test_a_caller_without_one_costs_nothing(told):
    """A share of 0 makes no span, and no request is marked."""
    collector, tree, _ = told
    with msrt.connect(state=tree.path / "cloud" / "operator", trace=collector.url, trace_share=0) as client:
        answers = client.infer_many("mlp", [np.zeros((1, 64), np.float32)] * 20)
        assert client._client._tracer.started == 0
    assert not any("traceparent" in answer.marks for answer in answers)


def test_the_command_line_shows_where_the_time_went(told):
    """The trace's id, and its parts as a tree; the same id is at the collector."""
    collector, tree, url = told
    path = tree.path / "one.npy"
    np.save(path, np.zeros((1, 64), np.float32))
    text = tree.cli("infer", "mlp", str(path), "--trace", "--url", url)
    trace = re.search(r"^trace ([0-9a-f]{32})$", text, re.MULTILINE)[1]
    assert re.search(r"└─ compute +[0-9.]+ ms$", text, re.MULTILINE)
    collector.of(trace, "infer", "device.compute")
