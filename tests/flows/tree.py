"""A whole tree under virtual time: one cloud, edges, devices, an operator and a client, all joined by real invites.

The nodes are the production ones, found through the entry-point group `msrt.nodes`; links are in memory. Only three
things are not the field's: keys come from the seed, a pushed file is prepared in this process (and remembered, for
its verdict depends on its bytes alone), and trainers answer with known vectors.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import functools
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from msrt import errors
from msrt.hop import Uplink
from msrt.joining import Membership, endpoint_for, hello_of, join
from msrt.links.link import Credentials
from msrt.protocol.messages import Parent
from msrt.settings import CloudConfig, DeviceConfig, EdgeConfig, SourceConfig
from msrt.training.accounting import account
from msrt.training.bundle import pack
from msrt.trust.certificate import Certificate, issue
from msrt.trust.identity import Identity
from msrt.trust.invite import Invite
from msrt.world.network import Faults
from msrt.world.seat import builder
from msrt.world.simulation import Simulation
from msrt_cloud.master import CloudSetup
from msrt_cloud.prepare import prepare_inline
from msrt_device.worker import DeviceSetup
from msrt_edge.master import EdgeSetup
from tests.flows.client import Caller, Quiet
from tests.flows.trainer import SimulatedTrainer
from tests.runtime.inference.models import mlp

__all__ = ["Tree", "grown", "model_file", "until"]

LEASE_S = 1.5
AGAIN_S = 2.0
"""What a service manager waits before it starts a process again that gave up."""
TRAINING_S = 0.4


@functools.cache
def model_file(version: int) -> bytes:
    """The ONNX file that becomes that version of a model."""
    return mlp(seed=version)


@functools.cache
def readings() -> str:
    """A recording that sources replay for ever."""
    folder = Path(tempfile.mkdtemp(prefix="msrt-flows-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "sensor.npy"
    np.save(path, np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32))
    return str(path)


@functools.cache
def _verdict(data: bytes):
    with tempfile.TemporaryDirectory(prefix="msrt-flows-") as folder:
        path, out = Path(folder) / "model.onnx", Path(folder) / "out"
        path.write_bytes(data)
        out.mkdir()
        from msrt_cloud.prepare import PrepareOptions  # noqa: PLC0415 - beside its use

        ticks = iter(range(1 << 30))
        prepared = prepare_inline(path, out, PrepareOptions(), lambda: next(ticks) * 1e-5)
        files = {name: (out / Path(file.path).name).read_bytes() for name, file in prepared.files.items()}
    return prepared, files


async def _prepare(path, out, _options):
    """Really judged, once per file."""
    prepared, files = _verdict(path.read_bytes())
    placed = {}
    for name, file in prepared.files.items():
        target = out / f"{name}.onnx"
        target.write_bytes(files[name])
        placed[name] = msgspec.structs.replace(file, path=str(target))
    return msgspec.structs.replace(prepared, files=placed)


async def _account(asked):
    """In this process."""
    return account(asked)


class Joined:
    """A process that joins with its invite at its first start, and is an edge or a device from then on."""

    def __init__(self, world, plan):
        self.world, self.plan = world, plan
        self.node = None

    async def run(self):
        plan, store = self.plan, self.world.disk.store("node")
        try:
            membership = Membership.load(store)
            if membership is None:
                invite = Invite.parse(plan.invite, self.world.wall())
                membership = await join(self.world, plan.identity, invite, plan.name)
                await membership.save(self.world, store)
            self.node = builder(plan.role)(self.world, plan.setup(membership))
            await self.node.run()
        except* errors.LocalError as error:
            plan.gave_up(error.exceptions[0])
            await asyncio.Event().wait()


class Plan:
    """What a seat is given."""

    def __init__(self, tree, name, role, setup, invite=""):
        self.tree, self.name, self.role, self.invite = tree, name, role, invite
        self.identity = tree.identity(name)
        self.setup = functools.partial(setup, self)

    def gave_up(self, error):
        self.tree.gave_up(self.name, error)


class CloudSeat:
    """The cloud's process."""

    def __init__(self, world, plan):
        self.plan = plan
        self.node = builder("cloud")(world, plan.setup(None))

    async def run(self):
        try:
            await self.node.run()
        except* errors.LocalError as error:
            self.plan.gave_up(error.exceptions[0])
            await asyncio.Event().wait()


class Talker:
    """An operator's or client's process: an uplink and nothing else."""

    def __init__(self, world, plan):
        self.world, self.plan = world, plan
        self.handler = plan.setup(world)
        hello = hello_of(world, plan.identity, plan.membership)
        self.uplink = Uplink(
            world, hello, plan.membership.parents, endpoint_for(plan.identity, plan.membership), self.handler
        )

    async def run(self):
        await self.uplink.run()


class Tree:
    """One tree of one seed. `edges` maps edge names to how many devices join there."""

    def __init__(
        self, seed, edges=None, faults=None, sources=2, device_config=None, edge_config=None, cloud_config=None
    ):
        self.seed = seed
        self.shape = {"edge-n": 3, "edge-s": 3} if edges is None else edges
        self.sim = Simulation(seed, faults or Faults())
        self.sources, self.device_config, self.edge_config = sources, device_config or {}, edge_config or {}
        self.cloud_config = cloud_config or {}
        self.devices = {}
        """Device name to the edge where it joined."""
        self.trainers = {}

    # --- who is in it

    def identity(self, name):
        """Keys of that node in this seed."""
        return Identity(*(hashlib.sha256(f"{self.seed}/{name}/{kind}".encode()).digest() for kind in "ab"))

    def node_id(self, name):
        return self.identity(name).node

    def __getitem__(self, name):
        """The production node that sits there, None while it is down or joining."""
        seat = self.sim.node(name)
        return None if seat is None else seat.node

    @property
    def cloud(self):
        return self["cloud"]

    @property
    def edges(self):
        return list(self.shape)

    @property
    def names(self):
        return ["cloud", *self.edges, *self.devices]

    def gave_up(self, name, error):
        """A process ended with an error of its machine: it is started again, as a service manager does."""
        self.sim.record("fate.gave_up", node=name, error=error)
        context = contextvars.Context()
        self.sim.loop.call_soon(self.sim.crash, name, context=context)
        self.sim.loop.call_later(AGAIN_S, self.sim.restart, name, context=context)

    # --- how they are made

    def _cloud_setup(self, plan, _membership):
        return CloudSetup(
            identity=plan.identity,
            listen=[("mem://", Credentials(secret_key=plan.identity.link_secret))],
            prepare=_prepare,
            workshop=lambda _job: SimulatedTrainer(),
            accountant=_account,
            config=CloudConfig(**{"lease_s": LEASE_S, "rollout_window_s": 0.5, **self.cloud_config}),
        )

    def _edge_setup(self, plan, membership):
        listen = [("mem://", Credentials(secret_key=plan.identity.link_secret))]
        config = EdgeConfig(lease_s=LEASE_S, **self.edge_config)
        return EdgeSetup(plan.identity, membership, listen, config)

    def _device_setup(self, plan, membership):
        number = list(self.devices).index(plan.name)
        source = SourceConfig(name="sensor", model="net", kind="replay", path=readings(), loop=True, interval_s=0.5)
        config = DeviceConfig(source=(source,) if number < self.sources else (), **self.device_config)

        def trainer(_job):
            return self.trainers.setdefault(plan.name, SimulatedTrainer(lambda _node, _round: TRAINING_S))

        return DeviceSetup(plan.identity, membership, config, trainer, device_class="sim-1g-onnxruntime")

    # --- growing

    async def grow(self):
        """Start and join everybody."""
        sim = self.sim
        sim.add("cloud", CloudSeat, Plan(self, "cloud", "cloud", self._cloud_setup))
        await until(lambda: self.cloud is not None and self.cloud.ready.is_set())
        self._talker("operator", (self.cloud.address,), Quiet)
        for edge in self.edges:
            invite = (await self.ask("invite.create", role="edge", region=self.region(edge)))["invite"]
            sim.add(edge, Joined, Plan(self, edge, "edge", self._edge_setup, invite))
        await until(lambda: len([e for e in self.cloud.fleet.edges.values() if e.alive]) == len(self.edges))
        for edge, count in self.shape.items():
            for _ in range(count):
                await self.newcomer(edge)
        await until(self.everyone_joined)
        parents = await self.ask("edges")
        self._talker("client", msgspec.convert(parents, tuple[Parent, ...], builtin_types=(bytes,)), Caller)
        return self

    async def newcomer(self, edge):
        """A device with an invite for that edge; its name."""
        name = f"device-{len(self.devices) + 1}"
        labels = {"site": "a" if len(self.devices) % 2 else "b"}
        asked = await self.ask("invite.create", role="device", region=self.region(edge), labels=labels)
        self.devices[name] = edge
        self.sim.add(name, Joined, Plan(self, name, "device", self._device_setup, asked["invite"]))
        return name

    def region(self, edge):
        return edge.partition("-")[2]

    def everyone_joined(self):
        """Everyone runs, has a parent, and each device hears of the other edges."""
        return all(
            self[name] is not None and self[name].uplink.peer is not None and self[name].uplink.peer.live
            for name in self.names[1:]
        ) and all(len(self[name].uplink.parents) == len(self.edges) for name in self.devices)

    def _talker(self, name, parents, handler):
        plan = Plan(self, name, "operator" if name == "operator" else "client", lambda _plan, world: handler(world))
        cloud, one = self.identity("cloud"), plan.identity
        certificate = Certificate(
            node=one.node, role=plan.role, name=name, identity=one.public, link_key=one.link_public
        )  # fmt: skip
        plan.membership = Membership(issue(cloud, certificate), cloud.public, tuple(parents), name, plan.role, "")
        self.sim.add(name, Talker, plan)

    # --- what the operator does

    async def ask(self, method, timeout=10.0, **params):  # noqa: ASYNC109 - as Uplink.call
        """One call to the cloud."""
        await until(lambda: self.sim.node("operator") is not None)
        return await self.sim.node("operator").uplink.call(method, params, timeout)

    async def insist(self, method, **params):
        """The same until it is answered, as a patient operator does."""
        while True:
            try:
                return await self.ask(method, 5.0, **params)
            except (errors.Disconnected, errors.DeadlineExceeded, errors.Unavailable, errors.LocalError):
                await asyncio.sleep(1.0)

    async def upload(self, data):
        digest = hashlib.sha256(data).hexdigest()
        while True:
            try:
                peer = await self.sim.node("operator").uplink.wait(5.0)
                await peer.push("artifact", {"digest": digest}, data, size=len(data), digest=digest)
            except (errors.Disconnected, errors.LocalError, errors.StreamCancelled):
                await asyncio.sleep(1.0)
            else:
                return digest

    async def push(self, version, name="net"):
        """Push a model; the version it became."""
        digest = await self.upload(model_file(version))
        return (await self.insist("model.push", name=name, file=digest))["version"]

    async def train(self, name="job", rounds=2, after="", **config):
        """Start a job, from the weights of another one if wanted."""
        settings = {"compression": "fp32", "checkpoints": 100, **config}
        lines = "".join(f"{key} = {_toml(value)}\n" for key, value in settings.items())
        with tempfile.TemporaryDirectory() as folder:
            text = f'name = "{name}"\ntask = "none:Nothing"\nrounds = {rounds}\n{lines}'
            (Path(folder) / "job.toml").write_text(text)
            data = pack(Path(folder)).data
        return (await self.insist("train.run", bundle=await self.upload(data), start=after))["job"]

    # --- what can be seen

    def ready(self, model, version, devices=None):
        """Does each of these devices answer with that version?"""
        for name in self.devices if devices is None else devices:
            device = self[name]
            slot = device.slots.serving(model) if device is not None else None
            if slot is None or slot.placement.version != version:
                return False
        return True

    def job(self, name):
        """A job as the cloud's journal has it."""
        return self.cloud.writer.state.jobs[name] if self.cloud is not None else None

    def ended(self, name):
        job = self.job(name)
        return job is not None and job.ended is not None


async def until(condition, seconds=60.0, what=""):
    """Wait for something to become true; fail after so many virtual seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, f"it never became true: {what or condition}"
        await asyncio.sleep(0.05)


def grown(scenario, seed=1, limit=900.0, **shape):
    """Run `scenario(tree)` in a grown tree; the tree's log as bytes."""
    tree = Tree(seed, **shape)
    with tree.sim as sim:

        async def run():
            await scenario(await tree.grow())

        sim.run(run(), until=limit)
        return sim.log_bytes()


def _toml(value):
    """A setting as job.toml spells it, a table on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)
