"""A small tree for the hop alone: parents and children that write down what they hear."""

from __future__ import annotations

import asyncio
import hashlib

from msrt import errors
from msrt.hop import Downlink, Uplink
from msrt.hop.durable import DurableSender
from msrt.hop.homing import Home
from msrt.journal.inbox import Inbox
from msrt.journal.outbox import Outbox
from msrt.links.link import Credentials
from msrt.protocol import wire
from msrt.protocol.messages import Enrolled, Event, Hello, Parent
from msrt.trust.certificate import Certificate, check_certificate, issue
from msrt.trust.identity import Identity
from msrt.world.network import Faults
from msrt.world.simulation import Simulation

CLOUD = Identity(bytes(range(32)), bytes(range(1, 33)))
LEASE_S = 1.5
TOLD = Faults(notice=1.0)
"""Calm, and a killed process's peers hear of it."""


def identity(name):
    """The same keys for the same name."""
    return Identity(hashlib.sha256(name.encode()).digest(), hashlib.sha256(name[::-1].encode()).digest())


def certificate(name, role="device"):
    """What the cloud says of the node of that name."""
    one = identity(name)
    return issue(CLOUD, Certificate(node=one.node, role=role, name=name, identity=one.public, link_key=one.link_public))


def parent_of(name):
    """Where a child finds that node. Each is a region of its own."""
    one = identity(name)
    return Parent(one.node, one.link_public, zmq=f"mem://{name}", region=name)


class Gate:
    """Lets in whom the cloud certified and nobody has revoked."""

    def __init__(self, parents):
        self.revoked, self.offered, self.enrolled = set(), tuple(map(parent_of, parents)), 0

    def admit(self, hello, principal):
        found = check_certificate(hello.certificate, CLOUD.public)
        if principal != found.link_key or hello.node != found.node:
            raise errors.NotEnrolled("the link was opened with another key than the certificate's")
        if found.node in self.revoked:
            raise errors.Revoked(f"{found.name} was removed from the tree")
        return found

    def parents(self, _certificate):
        return self.offered

    async def enrol(self, enrol, _principal):
        await asyncio.sleep(0.01)
        if enrol.secret != b"s" * 16:
            raise errors.InviteSpent("it was used before")
        self.enrolled += 1
        return Enrolled(certificate("joiner"), CLOUD.public, self.offered)


class Sink:
    """Keeps a stream in memory."""

    def __init__(self, have=b"", fault=None):
        self.data, self.fault, self.aborted, self.whole = bytearray(have), fault, None, False
        self.have = len(have)
        self.began_at = None
        self.pieces = []

    async def write(self, offset, data):
        await asyncio.sleep(0.0005)
        self.began_at = offset if self.began_at is None else self.began_at
        assert offset == len(self.data)
        self.data += data
        self.pieces.append(len(data))
        if self.fault and len(self.data) > 100_000:
            raise self.fault

    async def complete(self, size, digest):
        if len(self.data) != size or hashlib.sha256(self.data).hexdigest() != digest:
            raise errors.Corrupt("not what was promised")
        self.whole = True

    def abort(self, error):
        self.aborted = error


class Handler:
    """Writes down everything, answers a few methods."""

    def __init__(self, world):
        self.world = world
        self.joins, self.lefts, self.heard, self.sinks = [], [], [], []
        self.next_sink = None
        self.blobs = {}
        self.asked = 0
        self.store = world.disk.store("inbox")
        self.inbox = Inbox(self.store)
        self.stored_events = []
        self.refuse_durable = None

    def joined(self, peer):
        self.joins.append(peer)

    def left(self, peer, error, *, final):
        self.lefts.append((peer.node, error, final))

    def message(self, _peer, message, frames):
        self.heard.append((message, [bytes(frame) for frame in frames]))

    async def called(self, peer, method, params):
        self.asked += 1
        match method:
            case "echo":
                return {k: v for k, v in params.items() if k != "_call"}
            case "slow":
                await asyncio.sleep(params["seconds"])
                return "slept"
            case "huge":
                return "x" * params["size"]
            case "bug":
                return {}["missing"]
            case "get":
                data = self.blobs[params["digest"]]
                await peer.push(
                    "artifact", {"digest": params["digest"]}, data, size=len(data),
                    digest=params.get("promise", params["digest"]), answers=params["_call"],
                )  # fmt: skip
                return {"size": len(data)}
        raise errors.NotFound(f"no method {method}", hint="look again")

    def stream(self, _peer, opened):
        if opened.kind == "refused":
            raise errors.Forbidden("no such streams here")
        sink, self.next_sink = self.next_sink or Sink(), None
        self.sinks.append(sink)
        return sink

    async def stored(self, _peer, messages):
        if self.refuse_durable:
            raise self.refuse_durable
        for event in messages:
            if self.inbox.mark(event.node, "events", event.seq):
                self.store.append("events", wire.pack(event.seq))
        await self.world.offload(self.store.commit)

    def events(self):
        """What is on disk, in order of arrival."""
        return [wire.unpack(record, int) for _, record in self.store.read("events", 0, 100_000)]


class ParentNode:
    """A parent with a downlink. Config: the parents it offers."""

    def __init__(self, world, config):
        self.world = world
        self.name, offered = config
        self.identity = identity(self.name)
        self.handler, self.gate = Handler(world), Gate(offered)
        boot = world.random.getrandbits(60)
        self.down = Downlink(
            world, self.identity.node, boot, self.handler, self.gate, lease_s=LEASE_S, epoch=boot & 0xFFFFFFFF
        )

    async def run(self):
        await self.down.listen(
            self.world.links.listen("mem://", Credentials(secret_key=self.identity.link_secret), lambda _key: True)
        )
        await asyncio.Event().wait()

    @property
    def peer(self):
        [peer] = self.down.peers.values()
        return peer


class ChildNode:
    """A child with an uplink and an outbox. Config: its name, its parents, and `home_s`. Home is the first parent's."""

    def __init__(self, world, config):
        self.world = world
        self.name, parents, home_s = config
        self.identity = identity(self.name)
        self.handler = Handler(world)
        outbox = Outbox(world.disk.store("outbox"), "events", bound_bytes=1 << 20)
        self.sender = DurableSender(world, outbox, lambda data: wire.unpack(data, Event))
        hello = Hello(self.identity.node, world.random.getrandbits(60), certificate(self.name))
        self.busy = False
        home = Home(parents[0], home_s, lambda: not self.busy)
        self.up = Uplink(world, hello, [parent_of(p) for p in parents], self._endpoint, self, home=home)

    def _endpoint(self, parent):
        return parent.zmq, Credentials(secret_key=self.identity.link_secret, server_key=parent.link_key)

    async def run(self):
        await self.up.run()

    def joined(self, peer):
        self.handler.joined(peer)
        self.sender.attach(peer)

    def left(self, peer, error, *, final):
        self.handler.left(peer, error, final=final)
        if final:
            self.sender.detach(peer)

    def __getattr__(self, name):
        return getattr(self.handler, name)

    async def post(self, text="hello"):
        """A durable event; on disk on return."""

        def encode(seq):
            return wire.pack(Event(self.identity.node, seq, self.name, "s", "m", 1, 0.0, {"text": text}))

        return await self.sender.put(encode)


class Tree:
    """Parents p, q and a child c, ready when the child has joined p."""

    def __init__(self, sim, parents=("p",), offered=None, home_s=0.0):
        self.sim, self.parents = sim, parents
        for name in parents:
            sim.add(name, ParentNode, (name, parents if offered is None else offered))
        sim.add("c", ChildNode, ("c", parents, home_s))

    def __getattr__(self, name):
        return self.sim.node(name)

    async def joined(self):
        await until(lambda: self.c is not None and self.c.up.peer is not None and self.c.up.peer.live)
        return self


async def until(condition, seconds=60.0):
    """Wait for something to become true; fail after so many virtual seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, "it never became true"
        await asyncio.sleep(0.01)


def simulate(scenario, faults=TOLD, seed=1, limit=600, **tree):
    """Run `scenario(tree)` with everyone joined."""
    with Simulation(seed, faults) as sim:

        async def run():
            await scenario(await Tree(sim, **tree).joined())

        sim.run(run(), until=limit)


def blob(size, salt=0):
    """Bytes that do not repeat, and their digest."""
    block = b"".join(hashlib.sha256(f"{salt}/{n}".encode()).digest() for n in range(-(-min(size, 1 << 16) // 32)))
    data = (block * (size // len(block) + 1))[:size] if size else b""
    return data, hashlib.sha256(data).hexdigest()
