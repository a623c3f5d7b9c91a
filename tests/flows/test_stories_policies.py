"""Whole trees that serve by policy: a cascade with its top away, regions that are full, shadows."""

from __future__ import annotations

import asyncio

import numpy as np
import onnxruntime

from msrt.serving.relay import Relay
from tests.flows.tree import grown, model_file, until


def computed(version, row):
    """What that model file makes of a row."""
    session = onnxruntime.InferenceSession(model_file(version), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.array([row], np.float32)})[0]


async def ask(tree, *rows, model="net", within=5.0):
    """One request per row by the client; each Asked once all are settled."""
    client = tree.sim.node("client").handler
    asked = [client.ask(row, model, within) for row in rows]
    await asyncio.wait_for(asyncio.gather(*(one.settled for one in asked)), within + 3)
    return asked


def said(one):
    """The only answer: its message and its numbers."""
    assert len(one.answers) == 1, one.failures
    message, frame = one.answers[0]
    return message, np.frombuffer(frame, np.float32).reshape(1, -1)


async def rolled(tree, number, name="net", **more):
    version = await tree.push(number, name)
    await tree.ask("model.rollout", model=name, version=version, **more)
    return version


ROWS = [[1, 2, 3, n] for n in range(6)]


def test_a_cascade_ends_in_the_cloud_and_survives_its_absence(seed):
    """Device, edge, cloud: each unsure tier asks the next; with the cloud away the edge's answer is given and marked,
    and with it back it is asked again."""

    async def story(tree):
        await rolled(tree, 1)
        await rolled(tree, 2, "middle", selector="tier=edge")
        await rolled(tree, 3, "large", selector="tier=cloud")
        await until(lambda: tree.ready("net", 1), what="net is ready")
        await until(lambda: tree.cloud.serving.ready("large"), what="large is ready in the cloud")
        edges = [tree[name] for name in tree.edges]
        await until(lambda: all(edge.fleet.ready_model("middle") for edge in edges), what="middle is ready at edges")
        for model, larger in (("net", "middle"), ("middle", "large")):
            change = {"escalate_to": larger, "escalate_below": 1.0, "escalate_budget": 1.0}
            await tree.ask("model.policy", model=model, change=change)
        await until(lambda: all(len(edge.follower.state.policies) == 2 for edge in edges))
        for row, one in zip(ROWS, await ask(tree, *ROWS), strict=True):
            message, found = said(one)
            assert message.marks["answered_by"] == "cloud"
            assert np.allclose(found, computed(3, row), atol=1e-4)
        tree.sim.crash("cloud")
        for row, one in zip(ROWS, await ask(tree, *ROWS), strict=True):
            message, found = said(one)
            assert message.marks["answered_by"] == "edge", message.marks
            assert np.allclose(found, computed(2, row), atol=1e-4)
        tree.sim.restart("cloud")
        await until(lambda: tree.cloud is not None and tree.cloud.serving.ready("large"), what="the cloud is back")
        await until(lambda: all(edge.uplink.peer is not None and edge.uplink.peer.live for edge in edges))

        async def again():
            [one] = await ask(tree, ROWS[0])
            return said(one)[0].marks["answered_by"]

        for _ in range(30):
            if await again() == "cloud":
                break
            await asyncio.sleep(1)
        assert await again() == "cloud"

    grown(story, seed, edges={"edge-n": 2, "edge-s": 1}, sources=0)


def test_a_region_without_a_live_device_is_served_by_its_neighbour(seed):
    """Its devices stop; requests to its edge are answered from the other region, by the model that runs there."""

    async def story(tree):
        await rolled(tree, 1)
        await until(lambda: tree.ready("net", 1), what="net is ready")
        await until(lambda: all(len(tree[name].known_edges) == 2 for name in tree.edges))
        for name, edge in tree.devices.items():
            if edge == "edge-n":
                tree.sim.stop(name)
        await until(lambda: not tree["edge-n"].device_peers(), what="the edge has lost its devices")
        before = tree["edge-n"].service.overflowing.passed
        for row, one in zip(ROWS, await ask(tree, *ROWS), strict=True):
            message, found = said(one)
            assert message.device in [name for name, edge in tree.devices.items() if edge == "edge-s"]
            assert np.allclose(found, computed(1, row), atol=1e-4)
        if tree.sim.node("client").uplink.peer.node == tree["edge-n"].node:
            assert tree["edge-n"].service.overflowing.passed - before == len(ROWS)
            assert said(one)[0].marks == {"region": "s"}

    grown(story, seed, edges={"edge-n": 2, "edge-s": 2}, sources=0)


def test_two_full_regions_do_not_play_ball(seed, monkeypatch):
    """All devices stop under load with short queues: no request is passed on more than twice, none comes back to where
    it was, and each is settled by its deadline."""
    passed = []
    pass_on = Relay.ask

    async def noted(self, peer, request, within_s, hops):
        passed.append((id(self), peer.node, bytes(request.frames[0]), hops))
        return await pass_on(self, peer, request, within_s, hops)

    monkeypatch.setattr(Relay, "ask", noted)

    async def story(tree):
        await rolled(tree, 1)
        await until(lambda: tree.ready("net", 1), what="net is ready")
        await until(lambda: all(len(tree[name].known_edges) == 2 for name in tree.edges))
        for name in tree.devices:
            tree.sim.stop(name)
        rows = [[n, 0, 0, 0] for n in range(40)]
        asked = await ask(tree, *rows, within=3.0)
        assert all(len(one.answers) + len(one.failures) == 1 for one in asked)
        assert all(one.failures for one in asked)
        assert {one.failures[0].code for one in asked} <= {"overloaded", "unavailable", "deadline_exceeded"}
        assert passed
        assert max(hops for *_, hops in passed) <= 2
        asker = tree.sim.node("client").uplink.peer.node
        for row in rows:
            mine = [one for one in passed if one[2] == np.array(row, np.float32).tobytes()]
            assert asker not in [node for _, node, _, _ in mine]
            assert len(mine) <= 4

    grown(story, seed, edges={"edge-n": 1, "edge-s": 1}, sources=0, edge_config={"queue_items": 4, "batch_rows": 1})


def test_a_shadow_never_changes_an_answer(seed):
    """The candidate is another model and its devices die under it; every answer is the rolled out version's, in time,
    and the report says how they differ."""

    async def story(tree):
        await rolled(tree, 1)
        await until(lambda: tree.ready("net", 1), what="net is ready")
        await tree.push(5)
        await tree.ask("model.policy", model="net", change={"shadow": 2})

        def held(name):
            slots = tree[name].slots if tree[name] is not None else None
            return slots is not None and len([s for s in slots.held() if s.state.value == "ready"]) == 2

        await until(lambda: all(held(name) for name in tree.devices), what="the candidate is beside")
        for turn in range(20):
            [one] = await ask(tree, [turn, 1, 2, 3])
            message, found = said(one)
            assert message.version == 1
            assert np.allclose(found, computed(1, [turn, 1, 2, 3]), atol=1e-4)
            if turn == 10:
                tree.sim.crash("device-1")
            await asyncio.sleep(0.2)
        await asyncio.sleep(6)
        [row] = await tree.ask("model.shadow", model="net")
        assert (row["version"], row["against"], row["copies"] + row["dropped"]) == (2, 1, 20)
        assert row["copies"] - row["failed"] >= 15
        assert row["difference"] > 0
        assert 0 <= row["agreement"] <= 1

    grown(story, seed, edges={"edge-n": 2}, sources=0)
