"""Signed artifacts in a whole tree: what an edge changes, or who sits in it, is refused below; service goes on."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest

from msrt.errors import NotFound
from msrt.protocol.messages import Assign, RoundOpen
from tests.flows.tree import grown, until

MODEL = "net"


async def first(tree):
    """Version 1 serves everywhere."""
    await tree.insist("model.rollout", model=MODEL, version=await tree.push(1))
    await until(lambda: tree.ready(MODEL, 1))


def spoil(tree, edge, change):
    """Assignments of that edge are changed on their way out."""
    for seen in tree[edge].fleet.devices.values():
        through = seen.peer.send

        def send(message, frames=(), through=through):
            through(change(message) if isinstance(message, Assign) else message, frames)

        seen.peer.send = send


def failed(tree, device, version):
    """Why a device does not load that version."""
    slots = tree[device].slots.held()
    return next((s.error for s in slots if s.placement.version == version and s.state == "failed"), "")


def waits(tree, device, version):
    """Why a device does not load that version yet, and will try again."""
    slots = tree[device].slots.held() if tree[device] is not None else ()
    return next((s.error for s in slots if s.placement.version == version and s.state != "failed"), "")


def told(tree, version):
    """What the cloud hears of that version's fault."""
    reports = [model for _, device in tree.cloud.fleet.devices() for model in device.models]
    return next((model.error for model in reports if model.version == version), "")


async def answers(tree):
    """The version that answers a client."""
    asked = tree.sim.node("client").handler.ask(np.ones((1, 4), np.float32), MODEL, 5.0)
    await asked.settled
    return asked.answers[0][0].version


def test_every_floor_of_a_tree_trusts_by_the_same_root():
    """Cloud, edges and devices; who joined last got it from its edge."""

    async def tale(tree):
        await first(tree)
        values = [tree[name].trust.values() for name in tree.names]
        assert {v["trust_root"] for v in values if v} == {1.0}
        assert all(values[1:])
        assert all(v["trust_refused"] == 0 for v in values if v)

    grown(tale, edges={"edge-n": 2, "edge-s": 1})


@pytest.mark.parametrize("what", ["a label", "another version's"])
def test_a_manifest_that_an_edge_changes_is_refused_by_devices(what):
    """With its old signature or a good one of something else: reported, and version 1 goes on serving."""

    async def tale(tree):
        await first(tree)
        one = tree.cloud.writer.state.models[MODEL][1]

        def change(message):
            def worse(placement):
                if placement.version != 2:
                    return placement
                if what == "a label":
                    manifest = msgspec.msgpack.decode(placement.manifest) | {"labels": ["all", "is", "well"]}
                    return msgspec.structs.replace(placement, manifest=msgspec.msgpack.encode(manifest))
                return msgspec.structs.replace(placement, manifest=one.manifest, signature=one.signature)

            return msgspec.structs.replace(message, models=tuple(map(worse, message.models)))

        spoil(tree, "edge-n", change)
        await tree.insist("model.rollout", model=MODEL, version=await tree.push(2))
        await until(lambda: "is not what was signed" in failed(tree, "device-1", 2))
        assert await answers(tree) == 1
        await until(lambda: "is not what was signed" in told(tree, 2))

    grown(tale, edges={"edge-n": 1})


def test_a_bundle_that_an_edge_changes_is_refused_by_devices():
    """The job's round hears of it from the device; nobody runs what was not signed."""

    async def tale(tree):
        await first(tree)
        for seen in tree["edge-n"].fleet.devices.values():
            through = seen.peer.send

            def send(message, frames=(), through=through):
                if isinstance(message, RoundOpen):
                    message = msgspec.structs.replace(message, bundle="b" * 64)
                through(message, frames)

            seen.peer.send = send
        await tree.train(rounds=1, deadline_s=5.0)
        await until(lambda: tree["device-1"].trust.refused)
        await until(lambda: tree.ended("job"), 120.0)
        assert tree.job("job").state == "failed"
        assert "is not what was signed" in tree.job("job").ended.reason
        assert not tree.trainers
        assert await answers(tree) == 1

    grown(tale, edges={"edge-n": 1})


def test_a_newcomer_at_an_edge_that_hides_the_signatures_uses_nothing():
    """Such an edge says that it knows no `trust.get`, and gives it another model under a signature of the cloud's
    identity: by its certificate the device knows better. Once the edge is honest, it serves."""

    async def tale(tree):
        await first(tree)
        await tree.push(3, name="other")
        other = tree.cloud.writer.state.models["other"][1]
        edge = tree["edge-n"]
        honest = edge.trust.answer

        async def answer(_params):
            raise NotFound("this edge has no method 'trust.get'")

        def change(message):
            def swapped(placement):
                if placement.version != 2:
                    return placement
                return msgspec.structs.replace(placement, manifest=other.manifest, signature=other.signature)

            return msgspec.structs.replace(message, models=tuple(map(swapped, message.models)))

        edge.trust.answer = answer
        name = await tree.newcomer("edge-n")
        await until(lambda: "its tree has one" in waits(tree, name, 1), 60.0)
        spoil(tree, "edge-n", change)
        await tree.insist("model.rollout", model=MODEL, version=await tree.push(2))
        await until(lambda: "its tree has one" in waits(tree, name, 2), 60.0)
        assert not tree.ready(MODEL, 1, [name])
        edge.trust.answer = honest
        await until(lambda: tree.ready(MODEL, 1), 120.0)
        assert tree[name].trust.values()["trust_root"] == 1

    grown(tale, edges={"edge-n": 1})


def test_a_region_that_is_frozen_serves_on_and_takes_nothing_new():
    """Somebody keeps new timestamps from an edge: visible in `msrt status`, and over once they come through."""

    async def tale(tree):
        await first(tree)
        edge = tree["edge-n"]
        through = edge.trust._ask

        async def ask(params):
            return await through(params) | {"timestamp": b""}

        edge.trust._ask = ask
        await asyncio.sleep(45)
        await tree.insist("model.rollout", model=MODEL, version=await tree.push(2))
        await until(lambda: edge.trust.expired)
        assert await answers(tree) == 1
        tree.sim.crash("device-1")
        tree.sim.restart("device-1")
        await until(lambda: tree["device-1"] is not None and tree.ready(MODEL, 1))
        assert await answers(tree) == 1
        status = await tree.ask("status")
        assert status["edges"][0]["values"]["trust_left_s"] < 0
        assert status["cloud"]["trust"]["left_s"] > 0
        edge.trust._ask = through
        await until(lambda: tree.ready(MODEL, 2))

    grown(tale, edges={"edge-n": 1}, cloud_config={"trust_timestamp_s": 40.0, "rollout_ready_s": 600.0})


def test_losing_the_cloud_for_longer_than_signatures_last_changes_nothing():
    """Edge and devices start again from their disks, after everything that was signed has ended."""

    async def tale(tree):
        await first(tree)
        tree.sim.crash("cloud")
        await asyncio.sleep(60)
        for name in ("edge-n", "device-1", "device-2"):
            tree.sim.crash(name)
            tree.sim.restart(name)
        await until(lambda: all(tree[name] is not None for name in ("edge-n", "device-1", "device-2")))
        await until(lambda: tree.ready(MODEL, 1))
        await until(lambda: tree["edge-n"].fleet.ready_model(MODEL) == 2)
        assert await answers(tree) == 1

    grown(tale, edges={"edge-n": 2}, cloud_config={"trust_timestamp_s": 40.0})
