"""One real edge between a small cloud and small children, under virtual time, each told by the test what to say.

The cloud is made of the real parts that an edge talks to (journal, feed, artifacts, hop); devices and clients are
uplinks. What they hear they write down.
"""

from __future__ import annotations

import asyncio
import hashlib

import msgspec

from msrt import errors
from msrt.artifacts import ArtifactStore
from msrt.artifacts.transfer import serve
from msrt.hop import Downlink, Uplink
from msrt.hop.durable import DurableSender
from msrt.joining import Membership, endpoint_for
from msrt.journal.facts import ModelPushed, RolloutSet
from msrt.journal.inbox import Inbox
from msrt.journal.log import Log
from msrt.journal.outbox import Outbox
from msrt.journal.writer import Writer
from msrt.links.link import Credentials
from msrt.protocol import wire
from msrt.protocol.messages import (
    Assign,
    DeviceReport,
    Enrolled,
    Event,
    Follow,
    Hello,
    Infer,
    InferFailed,
    Inferred,
    ModelState,
    RoundClosed,
    RoundOpen,
    TensorSpec,
    UpdateMeta,
)
from msrt.settings import EdgeConfig
from msrt.trust.certificate import Certificate, check_certificate, issue
from msrt.trust.identity import Purpose
from msrt.world.simulation import Simulation
from msrt_cloud.feed import Feed
from msrt_edge.master import Edge, EdgeSetup
from tests.runtime.hop.tree import CLOUD, LEASE_S, TOLD, identity, parent_of, until
from tests.runtime.inference.models import manifest_of

__all__ = ["CLOUD", "REGION", "Rig", "certificate", "event", "identity", "pushed", "simulate", "until"]

REGION = "north"
X = TensorSpec("x", "FP32", (1, 4))
MANIFEST = CLOUD.signer(Purpose.MANIFEST)


def BUNDLE(digest):  # noqa: N802 - beside the other signer
    """What the cloud's identity signs of a job's bundle."""
    return CLOUD.sign(digest.encode(), Purpose.BUNDLE)


def certificate(name, role="device", cloud=CLOUD, **more):
    """What the cloud says of the node of that name."""
    one = identity(name)
    fields = {"region": REGION, "serial": 1, **more}
    return issue(
        cloud,
        Certificate(
            node=one.node, role=role, name=name, identity=one.public, link_key=one.link_public, **fields
        ),
    )  # fmt: skip


def membership(name, role, *parents):
    return Membership(certificate(name, role), CLOUD.public, tuple(map(parent_of, parents)), name, role, REGION)


def hello(name, role, boot):
    return Hello(identity(name).node, boot, certificate(name, role), device_class="sim-1g")


def pushed(version=1, model="net", files=None, **more):
    """A model version as the cloud's registry announces it."""
    manifest = manifest_of(files or {"fp32": b"net%d" % version}, version=version, model=model, **more)
    data = wire.pack(manifest)
    return ModelPushed(model, version, data, MANIFEST(data))


def event(name, seq, model="net", **data):
    return Event(identity(name).node, seq, name, "camera", model, 1, 1.5, data)


class Sink:
    """Keeps an update that an edge sends up."""

    have = 0

    def __init__(self, cloud, opened):
        self.cloud, self.meta, self.data = cloud, msgspec.convert(opened.meta, UpdateMeta), bytearray()

    async def write(self, _offset, data):
        self.data += data

    async def complete(self, _size, digest):
        assert hashlib.sha256(self.data).hexdigest() == digest
        if self.cloud.refuses:
            raise self.cloud.refuses.pop(0)
        self.cloud.updates.append((self.meta, bytes(self.data)))

    def abort(self, error):
        pass


class Cloud:
    """Keeps the journal and artifacts; everything it hears lies in lists."""

    def __init__(self, world, kept):
        self.world, self.kept = world, kept
        self.heard, self.updates, self.refuses, self.asked = [], [], [], []
        self.peer = None
        self.name = "cloud"
        self.infers = fail("not_found")
        """What becomes of requests that edges pass up."""
        self.offered = []
        """The edges that it names."""
        self.writer = Writer(
            Log(world.disk.store("journal"), CLOUD.signer(Purpose.JOURNAL), log_id="log", epoch=1), world.offload
        )
        self.feed = Feed(self.writer)
        self.artifacts = ArtifactStore(world)
        self.inbox = Inbox(world.disk.store("inbox"))
        me = identity("cloud")
        self.down = Downlink(
            world, me.node, world.random.getrandbits(60), self, self, lease_s=LEASE_S,
            epoch=world.random.getrandbits(30),
        )  # fmt: skip

    async def run(self):
        credentials = Credentials(secret_key=identity("cloud").link_secret)
        await self.down.listen(self.world.links.listen("mem://", credentials, lambda _key: True))
        await asyncio.Event().wait()

    # --- what a test says through it

    async def rollout(self, version=1, model="net", files=None, **more):
        """Push a model, its files as well, and roll it out."""
        for data in (files or {"fp32": b"net%d" % version}).values():
            await self.artifacts.put_bytes(data)
        await self.writer.append(pushed(version, model, files), RolloutSet(model, version, **more))

    def say(self, message, frames=()):
        self.peer.send(message, frames)

    def told(self, kind):
        return [message for message in self.heard if isinstance(message, kind)]

    # --- as the gate

    def admit(self, greeting, _principal):
        return check_certificate(greeting.certificate, CLOUD.public)

    def parents(self, _certificate):
        return ()

    async def enrol(self, _enrol, _principal):
        raise errors.InviteUnknown("nobody joins here")

    # --- as the handler

    def joined(self, peer):
        self.peer = peer

    def left(self, peer, _error, *, final):
        self.feed.stop(peer.node)

    def message(self, peer, message, _frames):
        self.heard.append(message)
        if isinstance(message, Follow):
            self.feed.follow(peer, message)
        elif isinstance(message, Infer):
            self.infers(self, peer, message)

    async def called(self, peer, method, params):
        self.asked.append((method, params))
        match method:
            case "artifact.get":
                return await serve(self.artifacts, peer, params)
            case "edges":
                return [msgspec.to_builtins(parent, builtin_types=(bytes,)) for parent in self.offered]
            case "enrol":
                if params["secret"] != b"s" * 16:
                    raise errors.InviteSpent("it was used before")
                made = Enrolled(certificate(params["name"]), CLOUD.public, ())
                return msgspec.to_builtins(made, builtin_types=(bytes,))
            case "model.load":
                version = params["version"] or max(self.writer.state.models[params["model"]])
                await self.writer.append(RolloutSet(params["model"], version, region=REGION))
                return {"version": version}
            case "model.unload":
                await self.writer.append(RolloutSet(params["model"], 1, state="withdrawn", region=REGION))
                return {}
        raise errors.NotFound(f"no method {method}")

    def stream(self, _peer, opened):
        return Sink(self, opened)

    async def stored(self, _peer, messages):
        for message in messages:
            if self.inbox.mark(message.node, "events", message.seq):
                self.kept.append((message.name, message.seq))


class Child:
    """A device or a client: an uplink that writes down what it hears, and a device's outbox."""

    def __init__(self, world, config):
        self.world = world
        self.name, role, parents, self.answers = config
        one = identity(self.name)
        member = membership(self.name, role, *parents)
        self.heard, self.lefts, self.asked = [], [], []
        outbox = Outbox(world.disk.store("outbox"), "events", bound_bytes=8 << 20)
        self.sender = DurableSender(world, outbox, lambda data: wire.unpack(data, Event))
        greeting = hello(self.name, role, world.random.getrandbits(60))
        self.uplink = Uplink(world, greeting, member.parents, endpoint_for(one, member), self, roams=False)

    async def run(self):
        await self.uplink.run()

    @property
    def node(self):
        return identity(self.name).node

    @property
    def peer(self):
        return self.uplink.peer

    @property
    def live(self):
        return self.peer is not None and self.peer.live

    # --- what a test says through it

    def report(self, *models, labels=None):
        """Say what is loaded: (model, version) pairs that are ready, or whole states."""
        states = tuple(m if isinstance(m, ModelState) else ModelState(*m, "fp32", "ready", batch=True) for m in models)
        self.peer.send(DeviceReport(1, states, labels or {}))

    async def post(self, **data):
        """A durable event; its number."""
        return await self.sender.put(lambda seq: wire.pack(event(self.name, seq, **data)))

    def ask(self, ident=1, model="net", rows=1, **more):
        spec = TensorSpec("x", "FP32", (rows, 4))
        self.peer.send(Infer((ident,), (rows,), model, (spec,), **more), (bytes(16 * rows),))

    async def update(self, meta, payload=b""):
        """Send an update."""
        digest = hashlib.sha256(payload).hexdigest()
        await self.peer.push("update", msgspec.to_builtins(meta), payload, size=len(payload), digest=digest)

    def told(self, *kinds):
        return [message for message, _ in self.heard if isinstance(message, kinds)]

    @property
    def placed(self):
        """(model, version, variant, serve) of the last assignment, all its parts; None before the first."""
        told = self.told(Assign)
        last = [p for one in told if one.generation == told[-1].generation for p in one.models]
        return [(p.model, p.version, p.variant, p.serve) for p in last] if told else None

    # --- as the handler

    def joined(self, peer):
        self.sender.attach(peer)

    def left(self, peer, error, *, final):
        self.lefts.append(error)
        if final:
            self.sender.detach(peer)

    def message(self, peer, message, frames):
        self.heard.append((message, frames))
        if isinstance(message, Infer) and self.answers is not None:
            self.answers(self, peer, message)

    async def called(self, _peer, method, params):
        self.asked.append((method, params))
        return ["a line"]

    def stream(self, _peer, opened):
        raise errors.Forbidden(f"no stream {opened.kind} here")

    async def stored(self, _peer, _messages):
        raise errors.Forbidden("nothing is kept here")


def answer(child, peer, asked):
    """As a device that computes zeros."""
    rows = sum(asked.rows)
    outputs = (TensorSpec("y", "FP32", (rows, 3)),)
    peer.send(Inferred(asked.ids, asked.rows, asked.model, 1, "fp32", child.name, outputs), (bytes(12 * rows),))


def fail(code, **more):
    """As a device that cannot."""
    return lambda _child, peer, asked: peer.send(InferFailed(asked.ids, code, "it cannot", **more))


class Rig:
    """`rig.cloud`, `rig.edge`, and a child by its name; each None while it is down."""

    def __init__(self, sim, config, devices, clients, tracing=None):
        self.sim, self.config, self.tracing = sim, config, tracing
        self.events = []
        """(device, seq) of every event that the cloud has on disk, over its restarts."""
        self.devices, self.clients = devices, clients

    def __getattr__(self, name):
        return self.sim.node(name)

    def _edge(self, world, _config):
        one, member = identity("edge"), membership("edge", "edge", "cloud")
        listen = [("mem://", Credentials(secret_key=one.link_secret))]
        tracer = self.tracing(world) if self.tracing is not None else None
        return Edge(world, EdgeSetup(one, member, listen, self.config, tracer=tracer))

    async def grow(self):
        self.sim.add("cloud", Cloud, self.events)
        self.sim.add("edge", self._edge)
        await self.settled()
        for names, role in ((self.devices, "device"), (self.clients, "client")):
            for name in names:
                self.sim.add(name, Child, (name, role, ("edge",), answer if role == "device" else None))
        await until(lambda: all(self.here(name) for name in (*self.devices, *self.clients)))
        return self

    async def settled(self):
        """The edge and its cloud have each other."""
        await until(lambda: self.edge is not None and self.edge.ready.is_set() and self.edge.uplink.peer is not None)
        await until(lambda: self.edge.uplink.peer.live)

    def here(self, name):
        """Is that child with the edge?"""
        child = self.sim.node(name)
        return child is not None and child.live

    def seen(self, name):
        """The edge's device record."""
        return self.edge.fleet.devices.get(identity(name).node)

    async def serve(self, *devices, version=1):
        """Model `net` is rolled out, and these devices say that they have it."""
        await self.cloud.rollout(version)
        await until(lambda: ("net", version) in self.edge.fleet.manifests)
        for name in devices or self.devices:
            getattr(self, name).report(("net", version))
        nodes = {identity(name).node for name in devices or self.devices}
        await until(lambda: all(self.edge.fleet.devices[node].models for node in nodes))

    async def reborn(self, name, seconds=60.0):
        """Kill a node and start it again."""
        self.sim.crash(name)
        self.sim.restart(name)
        await until(lambda: self.sim.node(name) is not None, seconds)

    def opened(self, number=1, *devices, weights, deadline_s=30.0, job="job", compression="fp32", along=(), **more):
        """The cloud opens a round for these devices; `along`: what rides with it."""
        participants = {identity(name).node: index for index, name in enumerate(devices or self.devices)}
        bundle = "b" * 64
        self.cloud.say(
            RoundOpen(
                job, number, bundle, BUNDLE(bundle), weights, deadline_s, participants, len(participants),
                compression, **more,
            ),
            along,
        )  # fmt: skip

    def closed(self, number=1, state="running", job="job"):
        self.cloud.say(RoundClosed(job, number, (), state))


def simulate(scenario, *, devices=("d1", "d2"), clients=(), seed=1, limit=900.0, faults=TOLD, tracing=None, **config):
    """Run `scenario(rig)` with everyone joined; the rest are settings of the edge. tracing: makes its tracer."""
    with Simulation(seed, faults) as sim:

        async def run():
            await scenario(await Rig(sim, EdgeConfig(lease_s=LEASE_S, **config), devices, clients, tracing).grow())

        sim.run(run(), until=limit)
