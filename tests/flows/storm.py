"""One seed, one storm: a tree at work while things go wrong, then time to come to rest, then the invariants."""

from __future__ import annotations

import asyncio

from msrt import errors
from msrt.protocol.messages import TensorSpec
from msrt.serving.backend import InferRequest
from msrt.world.faults import play, random_schedule
from tests.flows import invariants
from tests.flows.tree import Tree, until

__all__ = ["storm"]

STORM_S = 15.0
EVERY_S = 0.3
TIMEOUT_S = 4.0


class Front:
    """One request through an edge's HTTP front."""

    def __init__(self, tree, edge, row):
        self.edge, self.row = edge, row
        self.began = tree.sim.now
        self.deadline = self.began + TIMEOUT_S
        self.outcome, self.answer, self.ended = "", None, 0.0
        self.frame = b""

    async def run(self, tree, node):
        import numpy as np  # noqa: PLC0415 - only here

        self.frame = np.asarray(self.row, np.float32).tobytes()
        try:
            request = InferRequest("net", (TensorSpec("x", "FP32", (1, 4)),), (self.frame,), TIMEOUT_S)
            self.answer = await node.requests.infer(request)
            self.outcome = "answered"
        except errors.MsrtError as error:
            self.outcome = error.code
        self.ended = tree.sim.now


class Workload:
    """What goes on during the storm: requests by HTTP and by link, a job, a new model version."""

    def __init__(self, tree):
        self.tree, self.asked, self.fronts, self.acknowledged = tree, [], [], []
        self.over = False

    async def requests(self):
        """One by each way, now and then."""
        rng, number = self.tree.sim.rng, 0
        while not self.over:
            await asyncio.sleep(EVERY_S * rng.uniform(0.5, 1.5))
            number += 1
            row = [number % 7, 1, -number % 5, 0.5]
            edge = rng.choice(self.tree.edges)
            node, sim = self.tree[edge], self.tree.sim
            self.asked.append(sim.node("client").handler.ask(row, timeout=TIMEOUT_S))
            if node is not None and sim.alive(edge):
                front = Front(self.tree, edge, row)
                life = sim.spawn(edge, front.run(self.tree, node))
                self.fronts.append((front, life, node))

    async def changes(self):
        """A job at once, a second version a little later."""
        tree = self.tree
        await tree.train(rounds=2, deadline_s=8.0, quorum=0.5)
        await asyncio.sleep(tree.sim.rng.uniform(0, 6))
        version = await tree.push(2)
        self.acknowledged.append(("net", version))
        canary = tree.sim.rng.choice(("", "50%", "n"))
        while True:
            try:
                await tree.insist("model.rollout", model="net", version=version, canary=canary)
            except errors.NotFound:  # nobody of that region is there just now
                canary = ""
            else:
                return

    def settled(self, schedule):
        """Requests at edges that live on; who asked a killed or stopped one saw the connection break or stand."""
        stopped = {fault.nodes[0] for fault in schedule if fault.kind == "stop"}
        living = [self.tree[edge] for edge in self.tree.edges if edge not in stopped]
        return [front for front, _, node in self.fronts if any(node is one for one in living)]


def storm(seed):
    """Run the storm of a seed and hold the tree to its invariants; the event log."""
    tree = Tree(seed)
    with tree.sim as sim:

        async def run():
            await tree.grow()
            version = await tree.push(1)
            await tree.ask("model.rollout", model="net", version=version)
            await until(lambda: tree.ready("net", version))
            work = Workload(tree)
            work.acknowledged.append(("net", version))
            schedule = random_schedule(sim.rng, [*tree.names, "client"], STORM_S, mortal=tree.names)
            for fault in schedule:
                sim.record("fate.plan", fault=fault)
            loop = asyncio.get_running_loop()
            asking, changing = loop.create_task(work.requests()), loop.create_task(work.changes())
            await play(sim, schedule)
            await asyncio.wait_for(changing, 180)
            work.over = True
            await asking
            await asyncio.sleep(TIMEOUT_S + 1)
            await invariants.hold(tree, work.asked, work.settled(schedule), work.acknowledged)

        sim.run(run(), until=900)
        return sim.log_bytes()
