"""What an edge says over HTTP, by the ASGI app that a real server would call."""

from __future__ import annotations

import asyncio
import json

import numpy as np

from msrt.learning.vector import Layout, save
from msrt.protocol.messages import Infer
from msrt.serving.app import App
from msrt_edge.front import EdgeFront
from msrt_edge.observe import observe
from tests.edge.rig import simulate, until

BODY = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
PATH = "/v2/models/net/infer"


async def http(rig, path, body=None, app=None):
    """One request: status, headers, JSON or text."""
    app = app or App(EdgeFront(rig.edge))
    data = b"" if body is None else json.dumps(body).encode()
    incoming = [{"type": "http.request", "body": data, "more_body": False}]
    sent = []
    scope = {
        "type": "http", "method": "GET" if body is None else "POST", "path": path, "query_string": b"",
        "headers": [(b"content-length", str(len(data)).encode())], "client": ("127.0.0.1", 50000),
    }  # fmt: skip

    async def receive():
        if not incoming:
            await asyncio.Event().wait()
        return incoming.pop(0)

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    headers = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    text = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], headers, json.loads(text) if text.startswith((b"{", b"[")) else text.decode()


def test_an_answer_names_variant_and_device():
    """In the parameters, as the README says."""

    async def scenario(rig):
        await rig.serve("d1")
        status, _, answer = await http(rig, PATH, BODY)
        assert (status, answer["model_version"]) == (200, "1")
        assert answer["parameters"]["variant"] == "fp32"
        assert answer["parameters"]["device"] == "d1"
        assert answer["outputs"][0]["data"] == [0, 0, 0]

    simulate(scenario)


def test_a_full_queue_is_503_with_retry_after():
    """And with room again it is 200."""

    async def scenario(rig):
        await rig.serve("d1")
        rig.d1.answers = None
        waiting = []
        for _ in range(3):  # two in flight, one waits
            waiting.append(asyncio.ensure_future(http(rig, PATH, BODY)))
            await asyncio.sleep(0.001)
        status, headers, answer = await http(rig, PATH, BODY)
        assert (status, int(headers["retry-after"]) >= 1) == (503, True)
        assert "queue is full" in answer["error"]
        rig.sim.crash("d1")
        await rig.serve("d2", version=2)
        assert {found[0] for found in await asyncio.gather(*waiting)} <= {200, 503}
        assert (await http(rig, PATH, BODY))[0] == 200

    simulate(scenario, queue_items=1, batch_rows=1)


def test_a_sequence_that_nobody_can_begin_is_503_with_retry_after():
    """A step of one that nobody keeps is 409 all the while."""

    async def scenario(rig):
        await rig.serve("d1")
        rig.d1.report()
        await until(lambda: not rig.edge.fleet.ready_model("net"))
        begin = {**BODY, "parameters": {"sequence_id": 7, "sequence_start": True}}
        status, headers, answer = await http(rig, PATH, begin)
        assert (status, int(headers["retry-after"]) >= 1) == (503, True)
        assert "no worker holds net ready" in answer["error"]
        assert (await http(rig, PATH, {**BODY, "parameters": {"sequence_id": 7}}))[0] == 409

    simulate(scenario)


def test_readiness_is_of_the_edge_and_of_each_model():
    """A model is ready where a device has it; an unknown one is 404."""

    async def scenario(rig):
        assert (await http(rig, "/v2/health/ready"))[0] == 200
        assert (await http(rig, "/v2/models/net/ready"))[0] == 404
        await rig.cloud.rollout()
        await until(rig.edge.fleet.serving_versions)
        assert (await http(rig, "/v2/models/net/ready"))[0] >= 400
        rig.d1.report(("net", 1))
        await until(lambda: rig.edge.fleet.ready_somewhere("net", 1))
        assert (await http(rig, "/v2/models/net/ready"))[0] == 200
        status, _, found = await http(rig, "/v2/models/net")
        assert (status, found["versions"], found["inputs"][0]["name"]) == (200, ["1"], "x")

    simulate(scenario)


def test_clients_learn_of_every_edge():
    """This one first."""

    async def scenario(rig):
        status, _, found = await http(rig, "/msrt/v1/edges")
        edges = found["edges"] if isinstance(found, dict) else found
        assert status == 200
        assert edges[0]["node"] == rig.edge.node

    simulate(scenario, devices=())


def test_metrics_show_what_there_is_to_see():
    """Requests, devices, the journal, a round, what was retried, and how long the cloud is away."""

    async def scenario(rig):
        observe(rig.edge)
        await rig.serve("d1")
        assert (await http(rig, PATH, BODY))[0] == 200
        tensors = {"w": np.zeros(8, np.float32)}
        weights = await rig.cloud.artifacts.put_bytes(save(Layout.of(tensors), tensors["w"]))
        rig.opened(3, weights=weights)
        await until(lambda: rig.edge.training.progress)
        rig.sim.crash("cloud")
        await until(lambda: rig.edge.uplink.peer is None)
        await asyncio.sleep(7)
        lines = dict(line.rsplit(" ", 1) for line in (await http(rig, "/metrics"))[2].splitlines() if line[0] != "#")

        def value(name, *labels):
            [found] = [v for key, v in lines.items() if name in key and all(label in key for label in labels)]
            return float(found)

        assert value("parent_away_seconds") >= 7
        assert value("journal_offset", "global") == 2
        assert value("dropped_total", "events") == value("dropped_total", "webhook") == 0
        assert value("retries_total", "retried") == 0

    simulate(scenario)


def test_a_caller_that_hangs_up_costs_no_device_anything():
    """The request is called back, and the app forgets it."""

    async def scenario(rig):
        await rig.serve("d1")
        rig.d1.answers = None
        app = App(EdgeFront(rig.edge))
        asking = asyncio.ensure_future(http(rig, PATH, BODY, app))
        await until(lambda: rig.d1.told(Infer))
        asking.cancel()
        await until(lambda: rig.edge.dispatcher.open_requests == 0)
        assert app.in_flight == 0

    simulate(scenario)
