"""What a round costs a region of 1,000 clients: a real cloud and edge, a real CURVE connection for each client.

The clients share one process, as many devices would not fit this machine: each has the sessions and streams of a real
device, a certificate of its own and an update at hand, but no model, no job's process and no disk, and they share the
threads of one libzmq. What their process spends is in the time of a round too, as there are no other machines: what the
edge alone spends has a row of its own, taken from two jobs of unequal length, so that no job's start is in it.
`python -m tests.bench crowd` prints them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
import resource
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import numpy as np
import zmq

from msrt.buffers import Buffer
from msrt.hop import Peer, StreamSink, Uplink
from msrt.joining import IDENTITY, Membership, endpoint_for, hello_of
from msrt.links.link import Credentials, Link, Sink
from msrt.links.zmq import ZmqDialer
from msrt.process import run
from msrt.protocol.messages import Message, Parent, RoundOpen, StreamOpen, UpdateMeta
from msrt.trust.certificate import Certificate, issue
from msrt.trust.identity import Identity
from msrt.trust.invite import Invite
from msrt.world.field import FieldLinks, field_world
from msrt.world.world import World
from tests.bench.rounds import TASK
from tests.bench.table import Row
from tests.bench.tree import Proc, Tree

CLIENTS: Final = int(os.environ.get("BENCH_CLIENTS", "1000"))
ROUNDS: Final = (1, 2, 10)
"""Of a job that starts what later ones find, of the one whose cost is taken off, and of the one that is measured."""
SIZE: Final = 2_410
"""Parameters of a 64-32-10 network."""
AT_ONCE: Final = 50
"""Handshakes under way."""
JOB = """
name = "crowd-{rounds}"
task = "task:Nothing"
rounds = {rounds}
deadline_s = 120.0
quorum = 1.0
min_nodes = {clients}
compression = {{device = "fp32", region = "fp32", down = "fp32"}}
[options]
size = {size}
"""


class _Dialer(ZmqDialer):
    """One of many in a process."""

    threads = zmq.Context[zmq.Socket[bytes]]()

    async def start(self, sink: Sink) -> None:
        self._sink, self._context = sink, self.threads
        self._attempt()

    async def close(self) -> None:
        self._context = None  # it is the others' as well
        await super().close()


class _Links(FieldLinks):
    def dial(self, url: str, credentials: Credentials) -> Link:
        return _Dialer(url, credentials, random_bytes=os.urandom)


class Client:
    """A device's part of a round, once it has trained."""

    def __init__(self, node: str, update: bytes, digest: str) -> None:
        self.node, self._update, self._digest = node, update, digest
        self.here = asyncio.Event()

    def joined(self, _peer: Peer) -> None:
        self.here.set()

    def left(self, _peer: Peer, _error: Exception, *, final: bool) -> None: ...

    def message(self, peer: Peer, message: Message, _frames: list[Buffer]) -> None:
        if isinstance(message, RoundOpen):
            peer.spawn(self._send(peer, message))

    async def _send(self, peer: Peer, message: RoundOpen) -> None:
        first = f"{peer.node}/{peer.session.peer_boot}"
        meta = UpdateMeta(message.job, message.round, {self.node: 10}, first, "fp32", len(self._update) // 4)
        await peer.push("update", msgspec.to_builtins(meta), self._update, size=len(self._update), digest=self._digest)

    async def called(self, _peer: Peer, method: str, _params: dict[str, object]) -> object:
        raise LookupError(method)

    def stream(self, _peer: Peer, opened: StreamOpen) -> StreamSink:
        raise LookupError(opened.kind)

    async def stored(self, _peer: Peer, _messages: list[Message]) -> None: ...


async def _crowd(stop: asyncio.Event, folder: Path, invite: str, count: int) -> None:
    """So many clients of the edge that the invite leads to, until the end."""
    _Dialer.threads.max_sockets = 8 * count
    world = dataclasses.replace(field_world(folder / "clients"), links=_Links())
    cloud = Identity.load(folder / "cloud" / IDENTITY)
    parents = Invite.parse(invite, world.wall()).parents
    update = np.random.default_rng(1).normal(size=SIZE).astype(np.float32).tobytes()
    digest = hashlib.sha256(update).hexdigest()
    slots = asyncio.Semaphore(AT_ONCE)
    clients = []

    async def join(number: int) -> None:
        identity = Identity.generate(world.random.randbytes)
        client = Client(identity.node, update, digest)
        uplink = _uplink(world, cloud, identity, parents, number, client)
        clients.append(uplink)
        async with slots:
            task = asyncio.get_running_loop().create_task(uplink.run())
            task.add_done_callback(lambda done: done.cancelled() or done.result())
            await client.here.wait()

    await asyncio.gather(*(join(number) for number in range(count)))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await stop.wait()
    for client in clients:
        client.close()


def _uplink(
    world: World, cloud: Identity, identity: Identity, parents: tuple[Parent, ...], number: int, client: Client
) -> Uplink:
    """With a certificate of the cloud, as if an invite had been spent for it."""
    certificate = Certificate(
        node=identity.node, role="device", name=f"client{number}", identity=identity.public,
        link_key=identity.link_public, region="north", issued=world.wall(), serial=1_000_000 + number,
    )  # fmt: skip
    member = Membership(issue(cloud, certificate), cloud.public, parents, certificate.name, "device", "north")
    return Uplink(world, hello_of(world, identity, member), parents, endpoint_for(identity, member), client)


def _job(tree: Tree, rounds: int) -> tuple[list[float], dict[str, float]]:
    """Seconds of each round but the first; seconds of processor that each process spent on all, by name."""
    folder, report = tree.path / f"job{rounds}", tree.path / f"report{rounds}.json"
    folder.mkdir()
    (folder / "task.py").write_text(TASK)
    (folder / "job.toml").write_text(JOB.format(rounds=rounds, clients=CLIENTS, size=SIZE - 1))
    before = {name: proc.cpu_s() for name, proc in tree.procs.items()}
    tree.cli("train", "run", str(folder), "--report", str(report), timeout_s=300)
    spent = {name: proc.cpu_s() - before[name] for name, proc in tree.procs.items()}
    lines = json.loads(report.read_text())["rounds"]
    assert all(line["nodes"] == CLIENTS for line in lines)
    return [after - before for before, after in pairwise(line["wall"] for line in lines)], spent


def _measured(tree: Tree) -> tuple[float, dict[str, float]]:
    """Seconds of a round; seconds of processor that each process spent on one, by name."""
    first, short, long = ROUNDS
    _job(tree, first)
    _, start = _job(tree, short)
    walls, spent = _job(tree, long)
    return median(walls), {name: (seconds - start[name]) / (long - short) for name, seconds in spent.items()}


def rows() -> list[Row]:
    """Milliseconds a client."""
    with Tree() as tree:
        tree.edge("edge", "north")
        argv = [sys.executable, "-m", "tests.bench.crowd", str(tree.path), tree.invite("device", "--region", "north")]
        tree.procs["clients"] = Proc([*argv, str(CLIENTS)], tree.path / "clients.log").ready(300.0)
        wall, spent = _measured(tree)
    told = ", ".join(f"{name} {1000 * seconds / CLIENTS:.2f}" for name, seconds in spent.items())
    what = f"a round of {CLIENTS:,} clients in one region, {SIZE:,} parameters: a client"
    return [
        Row(what, 1000 * wall / CLIENTS, "ms", "<=", 1.0, f"processor time of that in ms: {told}"),
        Row("of that the edge's processor", 1000 * spent["edge"] / CLIENTS, "ms"),
    ]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        folder, invite, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
        sys.exit(run(lambda stop: _crowd(stop, folder, invite, count)))
    for row in rows():
        sys.stdout.write(f"{row.what:70} {row.value:.4g} {row.unit} {row.bound} {row.limit} {row.peer}\n")
