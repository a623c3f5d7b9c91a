"""Runners forked from a process with torch loaded: as those that are started alone, and sooner there."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from msrt.errors import JobFailed
from msrt.training.bundle import pack
from msrt.training.forks import ForkServer
from msrt.training.host import TrainerHost, signal_group
from msrt.training.task import Node
from msrt.world.field import field_world

TASK = """
import os, random, sys, time
import numpy as np, torch
import msrt.training as training

class Toy(training.Task):
    def model(self):
        return torch.nn.Linear(2, 1)

    def data(self, node):
        told = {
            "argv": sys.argv[0].rpartition("/")[2], "cwd": os.getcwd(), "group": os.getpgid(0),
            "files": len(os.listdir("/proc/self/fd")), "draws": [random.random(), float(np.random.rand())],
            "environment": sorted(os.environ), "data": os.environ["MSRT_DATA"],
        }
        print("TOLD", told, flush=True)
        if node.id == "leave":
            sys.exit(5)
        if node.id == "wait":
            time.sleep(60)
        x = np.ones((4, 2), np.float32)
        return (x, x[:, :1]), (x, x[:, :1])

    def loss(self, model, batch):
        return ((model(batch[0]) - batch[1]) ** 2).mean()

    def evaluate(self, model, batches):
        return {}
"""
WITHIN = 60.0


def bundle(tmp_path: Path) -> bytes:
    job = tmp_path / "job"
    job.mkdir(exist_ok=True)
    (job / "task.py").write_text(TASK)
    (job / "job.toml").write_text('name = "toy"\ntask = "task:Toy"\n')
    return pack(job).data


def run(tmp_path: Path, scenario: Callable[[ForkServer, Callable[[str], TrainerHost]], Awaitable[None]], **how) -> None:
    """A forkserver, and hosts that have it."""

    async def main() -> None:
        forks, world, hosts = ForkServer(**how), field_world(tmp_path / "state"), []

        def host(name: str) -> TrainerHost:
            hosts.append(TrainerHost(world, tmp_path / name, data=f"/data/{name}", forks=forks))
            return hosts[-1]

        try:
            await scenario(forks, host)
        finally:
            for one in hosts:
                await one.stop()
            await forks.close()

    asyncio.run(main())


async def told(host: TrainerHost, node: str = "n") -> dict:
    await host.train(Node(node), 1, await host.initial(WITHIN), "fp32", WITHIN)
    return eval(next(line for line in host.lines if line.startswith("TOLD")).partition(" ")[2])


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what it waits for happens in other processes
            await asyncio.sleep(0.02)


def test_a_forked_runner_is_one_of_its_own(tmp_path: Path) -> None:
    """Its own group, directory, data and dice; no descriptor of its siblings; the same parent process."""

    async def scenario(forks: ForkServer, host: Callable[[str], TrainerHost]) -> None:
        hosts = [host("a"), host("b")]
        for one in hosts:
            await one.start(bundle(tmp_path))
        seen = [await told(one) for one in hosts]
        for one, said in zip(hosts, seen, strict=True):
            assert said["group"] == one.pid
            assert said["cwd"] == str(one.directory)
            assert said["data"] == one.data
            assert said["environment"] == ["HOME", "LANG", "MSRT_DATA", "OMP_NUM_THREADS", "PATH"]
            assert said["argv"] == "runner.py"
            assert psutil.Process(one.pid).ppid() == forks.pid
            assert psutil.Process(one.pid).nice() == psutil.Process(forks.pid).nice() >= 10
        assert seen[0]["files"] == seen[1]["files"] <= 7
        assert all(mine != theirs for mine, theirs in zip(seen[0]["draws"], seen[1]["draws"], strict=True))

    run(tmp_path, scenario)


def test_a_runner_that_ended_is_reaped_and_followed_by_another(tmp_path: Path) -> None:
    """How it ended is told; nothing of it is left; its siblings live on."""

    async def scenario(forks: ForkServer, host: Callable[[str], TrainerHost]) -> None:
        one, other = host("a"), host("b")
        await other.start(bundle(tmp_path))
        await one.start(bundle(tmp_path))
        first, weights = one.pid, await one.initial(WITHIN)
        with pytest.raises(JobFailed, match="ended with status 5"):
            await one.train(Node("leave"), 1, weights, "fp32", WITHIN)
        under_way = asyncio.create_task(other.train(Node("wait"), 1, weights, "fp32", WITHIN))
        await until(lambda: any(line.startswith("TOLD") for line in other.lines), WITHIN)
        os.kill(other.pid, signal.SIGKILL)
        with pytest.raises(JobFailed, match="SIGKILL"):
            await under_way
        await until(lambda: not psutil.Process(forks.pid).children())
        assert (await one.train(Node("n"), 1, weights, "fp32", WITHIN)).samples == 4
        assert one.pid != first
        assert [child.pid for child in psutil.Process(forks.pid).children()] == [one.pid]

    run(tmp_path, scenario)


def test_a_dead_forkserver_takes_its_runners_along_and_is_started_again(tmp_path: Path) -> None:
    """The command fails with the cause, the next one finds a runner."""

    async def scenario(forks: ForkServer, host: Callable[[str], TrainerHost]) -> None:
        one = host("a")
        await one.start(bundle(tmp_path))
        weights, runner, first = await one.initial(WITHIN), psutil.Process(one.pid), forks.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: not runner.is_running() or runner.status() == psutil.STATUS_ZOMBIE)
        await until(lambda: one.pid is None)
        assert (await one.train(Node("n"), 1, weights, "fp32", WITHIN)).samples == 4
        assert forks.pid != first

    run(tmp_path, scenario)


def test_one_that_leads_no_group_yet_is_signalled_alone() -> None:
    """A runner killed right after its fork: it has not run a line yet, and must not live on."""
    child = subprocess.Popen(["sleep", "60"])
    signal_group(child.pid, signal.SIGKILL)
    assert child.wait(10) == -signal.SIGKILL


def test_it_ends_when_nobody_has_needed_it_for_a_while(tmp_path: Path) -> None:
    """And not while a runner lives."""

    async def scenario(forks: ForkServer, host: Callable[[str], TrainerHost]) -> None:
        one = host("a")
        await one.start(bundle(tmp_path))
        zygote = psutil.Process(forks.pid)
        await asyncio.sleep(0.6)
        assert zygote.is_running()
        await one.stop()
        await until(lambda: forks.pid is None)
        assert (await one.initial(WITHIN)) is not None

    run(tmp_path, scenario, idle_s=0.3)


def test_where_it_cannot_fork_the_runner_is_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forkserver that does not come up costs nothing but the time."""
    monkeypatch.setattr("msrt.training.forks.sys", SimpleNamespace(executable="/bin/false"))

    async def scenario(_forks: ForkServer, host: Callable[[str], TrainerHost]) -> None:
        one = host("a")
        await one.start(bundle(tmp_path))
        assert psutil.Process(one.pid).ppid() == os.getpid()

    run(tmp_path, scenario)


def test_a_fork_beside_a_thread_is_refused(tmp_path: Path) -> None:
    """A lock that the thread holds would be held for ever in the child."""
    script = textwrap.dedent("""
        import socket, sys, threading, os, msgspec
        from msrt.training.zygote import Zygote, Fork, Failed
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        socket.send_fds(mine, [msgspec.json.encode(Fork(1, "/", {}))], [0, 1])
        mine.shutdown(socket.SHUT_WR)
        assert Zygote(theirs).run() is False
        print(msgspec.json.decode(mine.recv(4096), type=Failed).text)
    """)

    async def main() -> str:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            script,
            stdout=asyncio.subprocess.PIPE,
            stdin=asyncio.subprocess.DEVNULL,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        return (await child.communicate())[0].decode()

    assert "2 threads run here" in asyncio.run(main())
