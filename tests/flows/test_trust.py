"""Signed artifacts in a whole tree: what an edge changes, or who sits in it, is refused below; service goes on."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from msrt.protocol.messages import Assign
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
