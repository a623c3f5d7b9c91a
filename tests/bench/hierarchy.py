"""What regions spare the way to the cloud: bytes that come into it, with sums and with every update alone.

The tree is the one of tests/flows, production code in virtual time, so the bytes are those of the wire: frames of
streams and messages, reports and heartbeats included. `python -m tests.bench hierarchy`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from msrt.learning.compress import open_codec
from msrt.learning.vector import Layout, save
from msrt.training.pipe import Trained
from msrt.training.task import Node
from tests.bench.table import Row
from tests.flows.trainer import SimulatedTrainer
from tests.flows.tree import Tree, until

PARAMETERS = 199_210
"""Of MNIST 2NN (McMahan 2017)."""
REGIONS, DEVICES, ROUNDS = 2, 16, 4


class Trainer(SimulatedTrainer):
    """Random updates of that size."""

    async def train(self, node: Node, round_: int, weights: bytes, encoding: str, within: float, *_: Any) -> Trained:
        del weights, within
        rng = np.random.default_rng([round_, node.index])
        delta = (rng.standard_normal(PARAMETERS) * 0.01).astype(np.float32)
        metrics = {"loss": 1.0, "accuracy": 0.5, "seconds": 0.1, "train_loss": 1.0}
        return Trained(100, delta.size, encoding, metrics, open_codec(encoding, PARAMETERS).encode(delta))

    async def initial(self, within: float) -> bytes:
        del within
        zeros = np.zeros(PARAMETERS, np.float32)
        return bytes(save(Layout.of({"weights": zeros}), zeros))


class Wide(Tree):
    """With that trainer in the cloud's workshop."""

    def _cloud_setup(self, plan: Any, membership: Any) -> Any:
        setup = super()._cloud_setup(plan, membership)
        object.__setattr__(setup, "workshop", lambda _job: Trainer())
        return setup


def bytes_in(**config: Any) -> float:
    """That came into the cloud in a round of such a job."""
    tree = Wide(1, edges={f"edge-{number}": DEVICES for number in range(REGIONS)}, sources=0)
    found: list[float] = []

    async def story() -> None:
        await tree.grow()
        for name in tree.devices:
            tree.trainers[name] = Trainer()
        await until(lambda: len(list(tree.cloud.fleet.living())) == len(tree.devices), what="the cloud sees everyone")
        job = await tree.train(rounds=ROUNDS, quorum=1.0, deadline_s=60.0, compression="int8", **config)
        await until(lambda: tree.job(job).round >= 1, 120, "the first round")
        before = _received(tree)
        await until(lambda: tree.ended(job), 300, "the job ended")
        assert tree.job(job).ended.state == "finished", tree.job(job).ended
        assert len(tree.job(job).advanced.included) == REGIONS * DEVICES
        found.append((_received(tree) - before) / (ROUNDS - 1))

    with tree.sim as sim:
        sim.run(story(), until=900.0)
    return found[0]


def _received(tree: Tree) -> float:
    return float(sum(link.received_bytes for link in tree.cloud.downlink.links))


def rows() -> list[Row]:
    """Both, and what is between them."""
    regions, flat = bytes_in(), bytes_in(aggregate={"rule": "trimmed:0.1"})
    what = f"bytes into the cloud, {REGIONS} regions x {DEVICES} devices, {PARAMETERS:,} parameters as int8"
    return [
        Row(
            f"{what}: of flat", regions / flat, "", "<=", 1 / 15, f"{regions / 1e6:.3f} of {flat / 1e6:.2f} MB a round"
        ),
        Row("the same in payloads alone", REGIONS / (REGIONS * DEVICES), ""),
    ]
