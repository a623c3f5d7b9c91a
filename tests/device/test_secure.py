"""A device under masks: what leaves it, what it forgets, and what it will not do twice."""

from __future__ import annotations

import random

import numpy as np
import pytest

from msrt.learning.secure_aggregation import Fixed, Me, SecureClient
from msrt.learning.secure_aggregation import events as e
from msrt.learning.secure_aggregation.client import Say
from msrt.learning.secure_aggregation.fixed import add
from msrt.learning.secure_aggregation.server import SecureServer
from msrt.learning.secure_aggregation.unmask import unmask
from msrt.protocol.messages import (
    Plan,
    RoundClosed,
    SecureKeys,
    SecureOut,
    SecurePlan,
    SecureReveal,
    SecureShares,
)
from msrt.trust.identity import Purpose
from tests.device.rig import simulate, until
from tests.device.test_training import ME, Job, Trainers, bundle  # noqa: F401 - a fixture
from tests.flows.trainer import SIZE, known_update
from tests.runtime.hop.tree import CLOUD, certificate, identity

MOST = 64


class Region:
    """The real device among three neighbours, whose machines run here, and so does the edge's."""

    def __init__(self, rig, session):
        self.rig, self.plan = rig, SecurePlan(clip=100.0, session=session)
        self.others = {}
        for name in "xyz":
            one = identity(name)
            me = Me(
                one.node, certificate(name), one.signer(Purpose.SECURE), CLOUD.public, random.Random(name).randbytes
            )
            self.others[one.node] = SecureClient(me, "job", self.plan, MOST)
        self.server = SecureServer("job", self.plan, [ME, *self.others], CLOUD.public, b"ring", 0.0, 1e6)
        self.work, self.at = None, len(rig.edge.heard)

    async def open(self, job, number=1):
        await job.open(number, plan=Plan(secure=self.plan), max_samples=MOST)
        for node, other in self.others.items():
            self.hear(node, other.keys)

    def hear(self, node, message):
        self.perform(self.server.handle(e.Said(node, message), self.rig.sim.now))

    def perform(self, actions):
        for action in actions:
            if isinstance(action, e.Unmask):
                self.work = action.work
            elif isinstance(action, e.Tell) and action.node == ME:
                self.rig.edge.peer.send(action.message)
            elif isinstance(action, e.Tell):
                for said in self.others[action.node].handle(action.message):
                    if isinstance(said, Say):
                        self.hear(action.node, said.message)

    def pump(self):
        """What the device said meanwhile."""
        said = self.rig.edge.heard[self.at :]
        self.at += len(said)
        for message, _ in said:
            ours = isinstance(message, SecureKeys | SecureShares | SecureReveal | SecureOut)
            if ours and message.session == self.plan.session:
                self.hear(ME, message)

    async def until(self, condition):
        def ready():
            self.pump()
            return condition()

        await until(ready)

    async def update(self):
        """The device's masked update: (meta, payload)."""
        before = len(self.updates())
        await self.until(lambda: len(self.updates()) > before)
        return self.updates()[-1]

    def updates(self):
        found = [(meta, bytes(sink.data)) for meta, sink in self.rig.edge.updates if sink.whole]
        return [one for one in found if one[0].get("secure", {}).get("session") == self.plan.session]

    async def total(self, payload):
        """The sum of the device's update and of three that are nothing, unmasked."""
        total = memoryview(bytearray(payload))
        for other in self.others.values():
            add(other.mask(np.zeros(SIZE, np.float32), 1, {}), total, 32)
        self.perform(self.server.handle(e.Sealed(frozenset([ME, *self.others]), 1e6), self.rig.sim.now))
        await self.until(lambda: self.work is not None)
        unmask(total, self.work)
        return Fixed(SIZE, 4, MOST, self.plan.clip).decode(total)


def test_nothing_but_a_masked_update_leaves(bundle):  # noqa: F811
    """Its samples, loss and accuracy are in the sum alone; with the round what was trained leaves its disk."""

    async def scenario(rig):
        job, region = Job(rig, bundle), Region(rig, "job/1.0/p/1/1")
        await region.open(job)
        meta, payload = await region.update()
        delta, samples = known_update("job", 1, ME)
        assert (meta["encoding"], meta["nodes"]) == ("secure", {ME: 1})
        assert set(meta["metrics"]) <= {"seconds", "update_bytes", "work"}
        assert delta.tobytes() not in payload
        mean, total = await region.total(payload)
        assert np.allclose(mean * total.samples, delta * samples, atol=1e-3)
        assert total.samples == samples + 3
        masking = rig.device.jobs.training._masking
        (plain,) = masking._plain.values()
        assert rig.device.artifacts.has(plain.digest)
        rig.edge.peer.send(RoundClosed("job", 1, (ME,)))
        await until(lambda: not masking._plain)
        await until(lambda: not rig.device.artifacts.has(plain.digest))
        assert not masking._turns

    simulate(scenario, trainer=Trainers())


def test_another_exchange_masks_what_was_trained_anew(bundle):  # noqa: F811
    """An edge that lost the first one opens the round again: other bytes, the same update, trained once."""

    async def scenario(rig):
        job, first = Job(rig, bundle), Region(rig, "job/1.0/p/1/1")
        await first.open(job)
        _, payload = await first.update()
        second = Region(rig, "job/1.0/p/2/1")
        await second.open(job)
        _, again = await second.update()
        same = np.frombuffer(payload, np.uint8) == np.frombuffer(again, np.uint8)
        assert same.mean() < 0.1
        mean, total = await second.total(again)
        delta, samples = known_update("job", 1, ME)
        assert np.allclose(mean * total.samples, delta * samples, atol=1e-3)
        assert rig.device.setup.trainer.rounds == [1]

    simulate(scenario, trainer=Trainers())


@pytest.mark.parametrize("rebooted", [False, True])
def test_it_helps_with_one_sum_of_a_round(rebooted, bundle):  # noqa: F811
    """Its shares left: it refuses another exchange of that round, after a reboot too, until it is opened anew."""

    async def scenario(rig):
        job, first = Job(rig, bundle), Region(rig, "job/1.0/p/1/1")
        await first.open(job)
        _, payload = await first.update()
        await first.total(payload)
        await until(lambda: rig.edge.said(SecureReveal))
        if rebooted:
            rig.sim.crash("d")
            rig.sim.restart("d")
            await until(lambda: rig.device is not None and rig.joined() and rig.device.uplink.peer is not None)
        second = Region(rig, "job/1.0/p/2/1")
        await second.open(job)
        await until(lambda: any(one.session == second.plan.session for one in rig.edge.said(SecureOut)))
        assert "already" in rig.edge.said(SecureOut)[-1].reason
        third = Region(rig, "job/1.0/p/2/2")
        third.plan = SecurePlan(clip=100.0, session=third.plan.session, opening=1)
        await job.open(1, plan=Plan(secure=third.plan), max_samples=MOST)
        await until(lambda: any(one.session == third.plan.session for one in rig.edge.said(SecureKeys)))

    simulate(scenario, trainer=Trainers())
