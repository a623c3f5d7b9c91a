"""One group over several nodes: their device processes stand for machines, and meet without a tree."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from msrt.errors import JobFailed
from msrt.learning.compress import open_codec
from msrt.learning.vector import load
from msrt.training.batches import joined, prepared
from msrt.training.bundle import pack
from msrt.training.cluster.meeting import Meeting, Met
from msrt.training.host import TrainerHost
from msrt.training.local import Local, load_task
from msrt.training.settings import parse_config
from msrt.training.task import Node
from msrt.world.field import field_world
from tests.runtime.training.cluster.jobs import TASK

WITHIN = 150.0
NODES = [Node(f"n{index}", index=index, count=2) for index in range(2)]


class House:
    """Two hosts that have the same job, in directories of one name."""

    def __init__(self, folder: Path, more: str) -> None:
        self.sources, self.meeting = folder / "sources", Meeting()
        self.sources.mkdir()
        (self.sources / "small.py").write_text(TASK)
        (self.sources / "job.toml").write_text(
            f'name = "small"\ntask = "small:Small"\n[train]\nepochs = 2\nbatch = 16\n'
            f'[cluster]\nprocesses = 1\nnodes = 2\n{more}\n[options]\ndoors = "{folder}"\n'
        )
        self.hosts = [self._host(folder, node) for node in NODES]

    def _host(self, folder: Path, node: Node) -> TrainerHost:
        async def ask(word):
            return self.meeting.meet(node.id, word) if word.turn else Met(address="127.0.0.1")

        return TrainerHost(field_world(folder / f"state-{node.id}"), folder / node.id / "job", meet=ask)

    async def start(self):
        bundle = pack(self.sources).data
        await asyncio.gather(*(host.start(bundle) for host in self.hosts))
        return await self.hosts[0].initial(WITHIN)

    async def train(self, number, weights):
        return await asyncio.gather(*(self.one(at, number, weights) for at in range(2)))

    async def one(self, at, number, weights):
        done = await self.hosts[at].train(NODES[at], number, weights, "fp32", WITHIN)
        assert done.samples == 105
        data = done.payload.read_bytes() if isinstance(done.payload, Path) else done.payload
        return open_codec("fp32", len(data) // 4).decode(data), done.metrics

    async def close(self):
        await asyncio.gather(*(host.stop() for host in self.hosts))

    def alone(self, number, weights):
        """What one process makes of the data of both."""
        config = parse_config((self.sources / "job.toml").read_text())
        torch.set_num_threads(1)
        task = load_task(config.task, self.sources, config.options)
        whole = joined([prepared(task.data(node)[0]) for node in NODES])
        local = Local(task, config)
        task.data = lambda _node: (whole, whole)
        return local.train(load(weights)[1], NODES[0], number)[0].copy()


def story(tmp_path, more, scenario):
    house = House(tmp_path, more)

    async def main():
        try:
            await scenario(house)
        finally:
            await house.close()

    asyncio.run(main())


def workers(host):
    """Whom the agent's forkserver started."""
    return [one for one in psutil.Process(host.pid).children(recursive=True) if one.ppid() != host.pid and _works(one)]


def _works(process):
    return bool(process.children() == [] and "forkserver" in " ".join(process.cmdline()))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_nodes_train_what_one_process_does(tmp_path):
    """On the data of both: each has the same update for its own samples, and the next round goes on with the group."""

    async def scenario(house):
        weights = await house.start()
        for number in (1, 2):
            (mine, told), (other, _) = await house.train(number, weights)
            expected = house.alone(number, weights)
            assert np.linalg.norm(mine - expected) < 1e-5 * np.linalg.norm(expected)
            assert (mine == other).all()
            assert [told[name] for name in ("processes", "steps", "restarts")] == [2, 28, 0]

    story(tmp_path, "", scenario)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_death_on_one_node_restarts_the_group_from_its_checkpoint(tmp_path):
    """Rank 1 is SIGKILLed within a round: both nodes' workers start anew from where all of them were, and end with the
    update that they would have had.
    """

    async def scenario(house):
        weights = await house.start()
        door = tmp_path / "step-20"
        door.write_text("kill")
        (mine, told), (other, _) = await house.train(1, weights)
        assert not door.exists()
        assert (mine == other).all()
        expected = house.alone(1, weights)
        assert np.linalg.norm(mine - expected) < 1e-5 * np.linalg.norm(expected)
        assert told["restarts"] == 1
        assert told["resumed_at"] == 16
        assert list((tmp_path / "all" / "job" / "n0").iterdir()) == []

    (tmp_path / "all").mkdir()
    story(tmp_path, f'checkpoint_steps = 4\nshared = "{tmp_path / "all"}"', scenario)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_that_died_is_waited_for(tmp_path):
    """All processes of rank 0's node, its store with them: the other node waits until they are back, and both go on."""

    async def scenario(house):
        weights = await house.start()
        door = tmp_path / "step-20"
        door.write_text("kill")  # so that all know that the round is under way
        rounds = [asyncio.create_task(house.one(at, 1, weights)) for at in range(2)]
        async with asyncio.timeout(WITHIN):
            while door.exists():  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.05)
        os.killpg(house.hosts[0].pid, signal.SIGKILL)
        with pytest.raises(JobFailed):
            await rounds[0]
        mine, told = await house.one(0, 1, weights)
        other, _ = await rounds[1]
        assert (mine == other).all()
        assert told["resumed_at"] >= 16

    (tmp_path / "all").mkdir()
    story(tmp_path, f'checkpoint_steps = 4\nshared = "{tmp_path / "all"}"', scenario)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_fault_of_one_node_is_told_on_all(tmp_path):
    """What user code raised on one of them ends the round of the other at once, in the same words."""

    async def scenario(house):
        weights = await house.start()
        (tmp_path / "step-5").write_text("raise")
        said = await asyncio.gather(*(house.one(at, 1, weights) for at in range(2)), return_exceptions=True)
        assert [type(one) for one in said] == [JobFailed, JobFailed]
        assert all("rank 1: ValueError: the tape is torn" in str(one) for one in said), said

    story(tmp_path, "", scenario)
