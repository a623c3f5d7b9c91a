"""A model with a policy, and questions to it."""

from __future__ import annotations

import numpy as np

from msrt.dispatch.policy import ModelPolicy
from msrt.journal.facts import PolicySet
from msrt.protocol.messages import Infer, Inferred, TensorSpec
from msrt.serving.backend import InferRequest
from tests.edge.rig import pushed, until

UNSURE, SURE = [0.1, 0.0, 0.0], [9.0, 0.0, 0.0]


def asks(value=0.0, timeout=5.0, rows=1, **more):
    """Rows of one value each."""
    spec = TensorSpec("x", "FP32", (rows, 4))
    return InferRequest("net", (spec,), (np.full((rows, 4), value, np.float32).tobytes(),), timeout, **more)


def scores(*rows, version=1, model=None):
    """As a device whose model answers these rows, again and again."""

    def says(child, peer, asked):
        count = sum(asked.rows)
        found = np.array([rows[n % len(rows)] for n in range(count)], np.float32)
        outputs = (TensorSpec("y", "FP32", found.shape),)
        said = Inferred(asked.ids, asked.rows, asked.model, asked.version or version, "fp32", child.name, outputs)
        if model in (None, asked.model):
            peer.send(said, (found.tobytes(),))

    return says


async def policed(rig, model="net", **fields):
    """The operator said how the model is served, and the edge knows."""
    policy = ModelPolicy(**fields)
    await rig.cloud.writer.append(PolicySet(model, policy))
    await until(lambda: rig.edge.follower.state.policies.get(model) == policy)


def asked_of(rig, *names):
    return [message for name in names for message in getattr(rig, name).told(Infer)]


async def shadowed(rig, share=1.0):
    """Version 1 answers, version 2 is beside it on both devices."""
    await rig.serve("d1", "d2")
    await rig.cloud.writer.append(pushed(2))
    await policed(rig, shadow=2, shadow_share=share)
    await until(lambda: ("net", 2, "measure", False) in (rig.d1.placed or []) or len(rig.d1.placed or []) == 2)
    for device in (rig.d1, rig.d2):
        device.report(("net", 1), ("net", 2))
    await until(lambda: all(len(seen.models) == 2 for seen in rig.edge.fleet.devices.values()))


async def cascading(rig, *rows, **fields):
    """`net` on d1 says these rows; `big` is asked where it is not sure."""
    await rig.serve("d1")
    await rig.cloud.writer.append(pushed(1, "big"))
    await policed(rig, escalate_to="big", **{"escalate_below": 0.8, "escalate_budget": 1.0, **fields})
    rig.d1.answers = scores(*rows)
    rig.cloud.infers = scores([0, 0, 7])
