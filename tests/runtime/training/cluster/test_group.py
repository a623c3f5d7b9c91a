"""Groups of two processes: equal to one process, over the death of a worker, and in words when user code fails."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest

from msrt.errors import JobFailed
from msrt.training.bundle import pack
from msrt.training.host import TrainerHost
from msrt.training.task import Node
from msrt.world.field import field_world
from tests.bench.tree import until
from tests.runtime.training.cluster.jobs import NODE


def test_a_killed_worker_changes_nothing(job):
    """Two processes train what one does; SIGKILLed in the middle of a round and started again, to the last bit what
    they would have trained undisturbed, and the metrics say how often.
    """
    small = job("accumulate = 3\ncheckpoint_steps = 4", "clip = 0.5\nproximal = 0.3", agent=True)
    assert small.distance(1) < 1e-5
    assert [small.metrics[name] for name in ("processes", "steps", "restarts", "work")] == [2, 14, 0, 1]
    weights = small.one.initial()
    undisturbed, _, told = small.many.train(weights, NODE, 2)
    door = small.doors / f"step-{2 * 42 + 30}"  # of round 3: step 10 of 14, three parts a step
    door.write_text("kill")
    again, _, metrics = small.many.train(weights, NODE, 2)
    assert not door.exists()
    assert metrics["restarts"] == 1
    assert (again == undisturbed).all()
    assert metrics["train_loss"] == pytest.approx(told["train_loss"])
    assert list((small.work / "cluster" / "saved").iterdir()) == []


@pytest.mark.slow
def test_a_fault_of_user_code_is_told_at_once(job):
    """Which rank, what it raised and where, without restarts that would find it again; the next round has new ones."""
    small = job(agent=True)
    (small.doors / "step-5").write_text("raise")
    with pytest.raises(JobFailed, match=r"rank 1: ValueError: the tape is torn") as failure:
        small.many.train(small.one.initial(), NODE, 1)
    assert "small.py" in failure.value.hint
    assert "raise ValueError" in failure.value.hint
    assert small.distance(1) < 1e-5


@pytest.mark.slow
def test_a_worker_that_dies_too_often_fails_the_round(job):
    """In words: which rank, how, after how many restarts."""
    small = job("restarts = 1\ncheckpoint_steps = 0", agent=True)
    for turn in ("step-3", "step-4"):  # a worker begins to count anew: the first dies at 3, the next at 4
        (small.doors / turn).write_text("kill")
    with pytest.raises(JobFailed, match=r"SIGKILL.*rank 1, after 1 restarts"):
        small.many.train(small.one.initial(), NODE, 1)


def litter():
    """What Python and torch leave outside a job's directory when nobody cleans up."""
    named = [*Path("/tmp").glob("pymp-*"), *Path("/tmp").glob("torch*"), *Path("/dev/shm").glob("sem.*")]
    return {str(path) for path in named}


@pytest.mark.parametrize("alone", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["group", "alone"])
def test_a_runner_takes_its_group_with_it(job, tmp_path, alone):
    """Paused it stands still; killed, nothing of it is left: no process, no semaphore, no temporary file."""
    small = job(agent=True)
    before = litter()

    async def scenario():
        host = TrainerHost(field_world(tmp_path / "state"), tmp_path / "host")
        try:
            await host.start(pack(small.sources).data)
            weights = await host.initial(60)
            await host.train(Node("n0"), 1, weights, "fp32", 100)
            workers = psutil.Process(host.pid).children(recursive=True)
            assert len(workers) >= 4  # agent, tracker, server of forks, two workers
            host.pause()
            mine = [one for one in workers if os.getpgid(one.pid) == host.pid]
            assert len(mine) == len(workers) - 1
            until("all stand still", lambda: all(one.status() == psutil.STATUS_STOPPED for one in mine))
            host.resume()
            await host.train(Node("n0"), 2, weights, "fp32", 100)
            if alone:  # as when its host is killed: nobody is left to kill the process group
                os.kill(host.pid, signal.SIGKILL)
                async with asyncio.timeout(20):
                    while host.pid is not None or any(one.is_running() for one in workers):  # noqa: ASYNC110 - no event tells
                        await asyncio.sleep(0.01)
        finally:
            await host.stop()
        return workers

    workers = asyncio.run(scenario())
    until("its processes are gone", lambda: not any(one.is_running() for one in workers))
    until("nothing is left", lambda: litter() <= before)
