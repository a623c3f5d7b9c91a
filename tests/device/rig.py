"""One production device below a parent that writes down what it hears and hands out artifacts."""

from __future__ import annotations

import asyncio
import hashlib

import numpy as np

from msrt.artifacts import ArtifactStore
from msrt.artifacts.transfer import serve
from msrt.hop import Downlink
from msrt.inference.bundle import sign_manifest
from msrt.inference.engine import Engine
from msrt.inference.slots import Slots
from msrt.joining import Membership
from msrt.links.link import Credentials
from msrt.protocol import wire
from msrt.protocol.messages import Assign, Infer, InferFailed, Inferred, Placement, TensorSpec
from msrt.settings import DeviceConfig
from msrt.trust.identity import Purpose
from msrt.world.network import Faults
from msrt.world.simulation import Simulation
from msrt_device.worker import DeviceSetup, build
from tests.runtime.hop.tree import CLOUD, LEASE_S, Gate, Handler, certificate, identity, parent_of, until
from tests.runtime.inference.models import manifest_of, mlp, placed

__all__ = ["Edge", "Rig", "simulate", "slots_with", "until"]

X = np.ones((1, 4), np.float32)


class Edge(Handler):
    """The parent: hears everything, keeps events and updates, serves artifacts, computes nothing."""

    def __init__(self, world, config):
        super().__init__(world)
        name, offered = config
        self.identity = identity(name)
        self.artifacts = ArtifactStore(world)
        self.updates = []
        boot = world.random.getrandbits(60)
        self.down = Downlink(
            world, self.identity.node, boot, self, Gate(offered), lease_s=LEASE_S, epoch=boot & 0xFFFFFFFF
        )

    async def run(self):
        credentials = Credentials(secret_key=self.identity.link_secret)
        await self.down.listen(self.world.links.listen("mem://", credentials, lambda _key: True))
        await asyncio.Event().wait()

    @property
    def peer(self):
        """The one device."""
        return next(iter(self.down.peers.values()), None)

    async def called(self, peer, method, params):
        if method == "artifact.get":
            return await serve(self.artifacts, peer, params)
        return await super().called(peer, method, params)

    def stream(self, peer, opened):
        sink = super().stream(peer, opened)
        self.updates.append((opened.meta, sink))
        return sink

    async def stored(self, peer, messages):
        for event in messages:
            if self.inbox.mark(event.node, "events", event.seq):
                self.store.append("events", wire.pack(event))
        await self.world.offload(self.store.commit)

    def said(self, *kinds):
        """Messages of these types, in order."""
        return [message for message, _ in self.heard if isinstance(message, kinds)]


class Rig:
    """A device "d" at the parent "p"; a second parent "q" may be asked for."""

    def __init__(self, sim, parents=("p",), trainer=None, **config):
        self.sim = sim
        for name in parents:
            sim.add(name, Edge, (name, parents))
        one = identity("d")
        membership = Membership(certificate("d"), CLOUD.public, tuple(map(parent_of, parents)), "d", "device", "")
        sim.add("d", build, DeviceSetup(one, membership, DeviceConfig(**config), trainer, device_class="sim"))
        self.asked = 0

    @property
    def edge(self):
        return self.sim.node("p")

    @property
    def device(self):
        return self.sim.node("d")

    def joined(self, name="p"):
        """Is the device at that parent?"""
        edge = self.sim.node(name)
        return edge is not None and edge.peer is not None and edge.peer.live

    async def there(self):
        await until(lambda: self.device is not None and self.joined() and self.device.uplink.peer is not None)
        return self

    async def model(self, version, data=None):
        """Put a model's file on the edge; its placement."""
        data = mlp(seed=version) if data is None else data
        await self.edge.artifacts.put_bytes(data)
        return placement(manifest_of({"fp32": data}, version=version))

    def assign(self, generation, *placements):
        self.edge.peer.send(Assign(generation, placements))

    def ready(self, version):
        slot = self.device.slots.serving("net") if self.device else None
        return slot is not None and slot.placement.version == version

    async def serving(self, version=1):
        """The device answers with that version."""
        self.assign(version, await self.model(version))
        await until(lambda: self.ready(version))

    def ask(self, rows=1, deadline_ms=5000, model="net", version=0):
        """One request from the edge; its id."""
        self.asked += 1
        self.edge.peer.send(*request((self.asked,), rows, deadline_ms, model, version))
        return self.asked

    def answers(self):
        """(id, version) of what was answered, and (id, code) of what was refused, in order."""
        return [
            (ident, one.version if isinstance(one, Inferred) else one.code)
            for one in self.edge.said(Inferred, InferFailed)
            for ident in one.ids
        ]


def request(ids, rows=1, deadline_ms=5000, model="net", version=0):
    """A batch as an edge sends it: `rows` rows for each id."""
    x = np.repeat(X, rows * len(ids), axis=0)
    spec = TensorSpec("x", "FP32", x.shape)
    return Infer(tuple(ids), (rows,) * len(ids), model, (spec,), version, deadline_ms), (x.tobytes(),)


def placement(manifest, sign=None):
    """As the cloud signs it."""
    data, signature = sign_manifest(manifest, sign or CLOUD.signer(Purpose.MANIFEST))
    return Placement(manifest.model, manifest.version, "fp32", data, signature)


def slots_with(data=None, **fields):
    """Slots that serve one model."""
    data = data or mlp()
    manifest = manifest_of({"fp32": data}, **fields)
    slots = Slots()
    slots.assign(1, [placed(manifest)])
    slot = slots.next_to_load(0.0)
    slots.loading(slot, manifest)
    slots.ready(slot, "fp32", Engine().load(data), {"fp32": 5})
    return slots


def digest(data):
    return hashlib.sha256(data).hexdigest()


def simulate(scenario, limit=600, faults=Faults(notice=1.0), **shape):  # noqa: B008 - frozen
    """Run `scenario(rig)` with the device at its parent."""
    with Simulation(1, faults) as sim:

        async def run():
            await scenario(await Rig(sim, **shape).there())

        sim.run(run(), until=limit)
