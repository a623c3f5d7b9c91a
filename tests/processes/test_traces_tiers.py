"""Traces over three tiers and two regions of real processes, told of the collector by OpenTelemetry's own variable."""

from __future__ import annotations

import json
import time

import pytest

from tests.bench.tree import Tree, until
from tests.processes.collector import Collector
from tests.processes.test_failover import times
from tests.processes.test_traces import ask

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180), pytest.mark.slow]
UNSURE = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]})


def root(spans):
    """Name of each span's ancestors, outermost first, with the service that made it."""
    by = {span.span: span for span in spans}

    def path(span):
        above = by.get(span.parent)
        return [*(path(above) if above else []), f"{span.name}@{span.service.removeprefix('msrt-')}"]

    return [" > ".join(path(span)) for span in spans]


def test_one_trace_over_device_edge_and_cloud(monkeypatch):
    """A row that the device's small model is not sure of goes up: the cloud's spans are below the edge's. And a region
    that has nobody for a model asks its neighbour, whose spans are below its own."""
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        with Tree() as tree:
            north = tree.edge("e1", "north").field("http")
            south = tree.edge("e2", "south").field("http")
            tree.device("d1", "north")
            for name, factor, to in (("small", 0.01, "tier=device"), ("large", 3.0, "tier=cloud")):
                file = tree.path / f"{name}.onnx"
                file.write_bytes(times(factor))
                tree.cli("model", "push", str(file), "--name", name)
                tree.cli("model", "rollout", name, "--window", "0.3", *(("--to", to) if name == "large" else ()))
            argv = ("--escalate-to", "large", "--escalate-below", "80%", "--escalate-budget", "100%")
            tree.cli("model", "policy", "small", *argv)
            numbers = iter(range(1, 10_000))

            def asked(url, model, body, *ways):
                """Whether a request takes one of these ways, span below span."""
                trace = f"{next(numbers):032x}"
                status, _, _ = ask(url, model=model, body=body, traceparent=f"00-{trace}-{'9' * 16}-01")
                if status != 200:
                    return False
                end = time.monotonic() + 4  # each process sends once a second
                while time.monotonic() < end:
                    if set(ways) & set(root([span for span in collector.spans if span.trace == trace])):
                        return True
                    time.sleep(0.05)
                return False

            computed = "device@device > device.compute@device"
            up = f"infer@edge > cascade@edge > relay@edge > infer@cloud > attempt@cloud > {computed}"
            until("the cloud's spans below the edge's", lambda: asked(north, "small", UNSURE, up), 60)
            tree.push()
            over = f"infer@edge > overflow@edge > relay@edge > infer@edge > attempt@edge > {computed}"
            above = over.replace("relay@edge", "relay@edge > infer@cloud > relay@cloud")
            until("the neighbour's spans below our own", lambda: asked(south, "mlp", None, over, above), 60)
