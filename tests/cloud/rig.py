"""A production cloud, and members that only talk: edges, operators, clients, each over a real session in memory."""

from __future__ import annotations

import hashlib

from msrt.hop import Uplink
from msrt.joining import Membership, endpoint_for, hello_of
from msrt.links.link import Credentials
from msrt.protocol.messages import DeviceRecord, FleetReport, ModelState, Parent
from msrt.settings import CloudConfig
from msrt.trust.certificate import Certificate, issue
from msrt.world.simulation import Simulation
from msrt_cloud.master import CloudSetup, build
from msrt_cloud.prepare import prepare_inline
from tests.flows.trainer import SimulatedTrainer
from tests.runtime.hop.tree import CLOUD, Handler, identity, until

__all__ = ["Member", "Rig", "device", "prepare", "simulate", "until"]


async def prepare(path, out, options):
    """The real workshop, in this process, with a clock of its own."""
    ticks = iter(range(1 << 30))
    return prepare_inline(path, out, options, lambda: next(ticks) * 1e-5)


def device(name, *models, alive=True, site="a", **more):
    """One device as its edge reports it; `models`: (model, version, state)."""
    states = tuple(ModelState(model, version, "fp32", state) for model, version, state in models)
    return DeviceRecord(identity(name).node, name, alive, "sim", {"site": site}, states, **more)


class Member(Handler):
    """Someone below the cloud; hears everything, keeps streams."""

    def __init__(self, world, plan):
        super().__init__(world)
        name, role, region, parent = plan
        self.one = identity(name)
        certificate = Certificate(
            node=self.one.node, role=role, name=name, identity=self.one.public, link_key=self.one.link_public,
            region=region, serial=1,
        )  # fmt: skip
        membership = Membership(issue(CLOUD, certificate), CLOUD.public, (parent,), name, role, "")
        where = Parent(self.one.node, self.one.link_public, zmq=f"mem://{name}", region=region)
        hello = hello_of(world, self.one, membership, address=where if role == "edge" else None)
        self.uplink = Uplink(world, hello, membership.parents, endpoint_for(self.one, membership), self)

    async def run(self):
        await self.uplink.run()

    @property
    def peer(self):
        return self.uplink.peer

    async def ask(self, method, **params):
        return await self.uplink.call(method, params, 60.0)

    def said(self, *kinds):
        """Messages of these types, in order."""
        return [message for message, _ in self.heard if isinstance(message, kinds)]

    def report(self, *devices):
        """What this edge says of its devices."""
        self.peer.send(FleetReport({}, devices))

    async def upload(self, data):
        """Stream an artifact up; its digest."""
        digest = hashlib.sha256(data).hexdigest()
        await self.peer.push("artifact", {"digest": digest}, data, size=len(data), digest=digest)
        return digest


class Rig:
    """A cloud with an operator; edges and clients join when asked for."""

    def __init__(self, sim, workshop=None, prepare=prepare, **config):
        self.sim = sim
        setup = CloudSetup(
            identity=CLOUD,
            listen=[("mem://", Credentials(secret_key=CLOUD.link_secret))],
            prepare=prepare,
            workshop=workshop or (lambda _job: SimulatedTrainer()),
            config=CloudConfig(**{"rollout_window_s": 1.0, "rollout_ready_s": 20.0, **config}),
        )
        sim.add("cloud", build, setup)

    @property
    def cloud(self):
        return self.sim.node("cloud")

    async def there(self):
        await until(lambda: self.cloud is not None and self.cloud.ready.is_set())
        self.operator = await self.member("operator", "operator")
        return self

    async def member(self, name, role, region=""):
        self.sim.add(name, Member, (name, role, region, self.cloud.address))
        await until(lambda: self.sim.node(name) is not None)
        one = self.sim.node(name)
        await until(lambda: one.peer is not None and one.peer.live)
        return one

    async def edge(self, name="edge", region="north", *devices):
        """An edge that reported these devices."""
        one = await self.member(name, "edge", region)
        one.report(*devices)
        await until(lambda: len(self.cloud.fleet.edges[one.one.node].devices) == len(devices))
        return one

    async def push(self, data, name="net", **options):
        return await self.operator.ask("model.push", name=name, file=await self.operator.upload(data), **options)


def simulate(scenario, limit=900, **shape):
    """Run `scenario(rig)` with the cloud up and an operator there."""
    with Simulation(1) as sim:

        async def run():
            await scenario(await Rig(sim, **shape).there())

        sim.run(run(), until=limit)
