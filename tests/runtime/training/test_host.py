from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from msrt.errors import InvalidJob, JobFailed
from msrt.learning.compress import open_codec
from msrt.learning.vector import load
from msrt.training import pipe
from msrt.training.bundle import pack
from msrt.training.forks import ForkServer
from msrt.training.host import TrainerHost
from msrt.training.task import Node
from msrt.world.field import field_world

NODE = Node("n0", index=0, count=2)
TOY = """
import os, time
import numpy as np
import torch
from msrt import training

class Toy(training.Task):
    def model(self):
        width = 20_000 if self.options.get("trick") == "wide" else 8
        return torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))

    def data(self, node):
        print("loading", node.id, flush=True)
        trick = self.options.get("trick", "")
        if trick == "raise":
            raise RuntimeError("no such sensor")
        if trick == "die":
            os._exit(7)
        if trick == "spin":
            while True: pass
        if trick == "memory":
            self.hoard = bytearray(2 << 30)
        if trick == "environment":
            print("ENV", sorted(os.environ), os.nice(0), flush=True)
            raise RuntimeError("seen")
        if trick == "linger":
            os.closerange(3, 64)
            time.sleep(2.2)
            os._exit(3)
        if trick == "slow":
            time.sleep(0.5)
        rng = np.random.default_rng(node.index)
        x = rng.standard_normal((40, 4)).astype(np.float32)
        y = (x.sum(axis=1) > 0).astype(np.int64)
        return (x[:30], y[:30]), (x[30:], y[30:])

    def reference(self):
        (x, y), test = self.data(training.Node("r"))
        return (x, y), test
"""


def _bundle(tmp_path: Path, trick: str = "", more: str = "") -> bytes:
    job = tmp_path / "job"
    job.mkdir(exist_ok=True)
    (job / "task.py").write_text(TOY)
    (job / "job.toml").write_text(f'name = "toy"\ntask = "task:Toy"\n{more}\n[options]\ntrick = "{trick}"\n')
    return pack(job).data


def _run(tmp_path: Path, scenario: Callable[[TrainerHost], Awaitable[None]], *, forked: bool = True) -> None:
    async def main() -> None:
        forks = ForkServer() if forked else None
        host = TrainerHost(field_world(tmp_path / "state"), tmp_path / "work", forks=forks)
        try:
            await scenario(host)
        finally:
            await host.stop()
            if forks is not None:
                await forks.close()

    asyncio.run(main())


@pytest.mark.parametrize("forked", [True, False], ids=["forked", "alone"])
def test_a_job_lives_through_its_whole_life(tmp_path: Path, *, forked: bool) -> None:
    """Weights, rounds, judgement, baselines and ONNX from one runner; a round trained again gives the same bytes."""

    async def scenario(host: TrainerHost) -> None:
        await host.start(_bundle(tmp_path, more="rounds = 3"))
        weights = await host.initial(30)
        layout, flat = load(weights)
        first = await host.train(NODE, 1, weights, "int8", 30)
        second = await host.train(NODE, 2, weights, "int8", 30)
        assert (first.samples, first.size) == (30, layout.size)
        assert {"loss", "accuracy", "train_loss", "seconds"} <= first.metrics.keys()
        assert open_codec("int8", flat.size).decode(first.payload).any()
        await host.stop()
        again = await host.train(NODE, 2, weights, "int8", 30)
        assert again.payload == second.payload
        judged = await host.evaluate(weights, [NODE, Node("n1", index=1, count=2)], 30)
        assert judged.samples == 20
        baseline = await host.baseline([NODE, Node("n1", index=1, count=2)], 30)
        assert len(baseline.alone) == 2
        exported = await host.export(weights, 30)
        assert exported.calibration[:6] == b"\x93NUMPY"
        _same_answers(exported.onnx, load(weights)[1])
        await host.stop(for_good=True)
        assert not host.directory.exists()

    _run(tmp_path, scenario, forked=forked)


def _same_answers(model: bytes, flat: np.ndarray) -> None:
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(model)
    x = np.random.default_rng(3).standard_normal((5, 4)).astype(np.float32)
    w1, b1, w2, b2 = np.split(flat, [32, 40, 56])
    expected = np.maximum(x @ w1.reshape(8, 4).T + b1, 0) @ w2.reshape(2, 8).T + b2
    assert np.allclose(session.run(None, {"input": x})[0], expected, rtol=1e-4, atol=1e-5)


def test_a_large_update_lies_in_a_file(tmp_path: Path) -> None:
    """As its weights do; trained again it is the same."""

    async def scenario(host: TrainerHost) -> None:
        await host.start(_bundle(tmp_path, "wide", "rounds = 3"))
        weights = await host.initial(30)
        assert len(weights) > pipe.INLINE
        first = (await host.train(NODE, 1, weights, "int8", 30)).payload.read_bytes()
        assert open_codec("int8", load(weights)[1].size).decode(first).any()
        again = await host.train(NODE, 1, weights, "int8", 30)
        assert again.payload.read_bytes() == first

    _run(tmp_path, scenario)


@pytest.mark.parametrize("forked", [True, False], ids=["forked", "alone"])
@pytest.mark.parametrize(
    ("trick", "more", "why"),
    [
        ("raise", "", r"^training: RuntimeError: no such sensor \(task\.py, line \d+, in \w+\)$"),
        ("die", "", "ended with status 7"),
        ("spin", "[limits]\ncpu_s = 1", "ran over its CPU limit"),
        ("memory", "[limits]\nmemory_mb = 1500", "MemoryError"),
    ],
)
def test_user_code_that_goes_wrong_is_a_typed_error(
    trick: str, more: str, why: str, tmp_path: Path, *, forked: bool
) -> None:
    """It raises, exits, spins or hoards: JobFailed says how, and the next command finds a runner again."""

    async def scenario(host: TrainerHost) -> None:
        await host.start(_bundle(tmp_path, trick, more))
        weights = await host.initial(30)
        with pytest.raises(JobFailed, match=why) as failure:
            await host.train(NODE, 1, weights, "fp32", 30)
        if trick != "memory":
            assert "loading n0" in "\n".join([*host.lines, str(failure.value)])

    _run(tmp_path, scenario, forked=forked)


def test_a_runner_that_hung_up_is_waited_for(tmp_path: Path) -> None:
    """It closed its pipe and took its time to end: how it ended is told, not that its answer made no sense."""

    async def scenario(host: TrainerHost) -> None:
        await host.start(_bundle(tmp_path, "linger"))
        with pytest.raises(JobFailed, match="ended with status 3"):
            await host.train(NODE, 1, await host.initial(30), "fp32", 30)

    _run(tmp_path, scenario)


def test_a_paused_round_waits_and_a_late_one_is_killed(tmp_path: Path) -> None:
    """Paused it makes no progress and finishes after resume; paused past its deadline it is killed, and the next round
    finds a new runner.
    """

    async def scenario(host: TrainerHost) -> None:
        await host.start(_bundle(tmp_path, "slow"))
        weights = await host.initial(30)
        first = host.pid
        assert first is not None
        round_ = asyncio.create_task(host.train(NODE, 1, weights, "fp32", 30))
        await asyncio.sleep(0.1)
        host.pause()
        done, _ = await asyncio.wait([round_], timeout=0.8)
        assert not done
        host.resume()
        assert (await round_).samples == 30
        host.pause()
        with pytest.raises(JobFailed, match=r"took longer than the 0\.2 s that were left, and was killed"):
            await host.train(NODE, 2, weights, "fp32", 0.2)
        assert not psutil.pid_exists(first)
        host.resume()
        assert (await host.train(NODE, 2, weights, "fp32", 30)).samples == 30

    _run(tmp_path, scenario)


def test_the_environment_is_clean_and_the_priority_low(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret of the node's environment reaches the job."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")

    async def scenario(host: TrainerHost) -> None:
        await host.start(_bundle(tmp_path, "environment"))
        with pytest.raises(JobFailed, match="seen"):
            await host.train(NODE, 1, await host.initial(30), "fp32", 30)
        seen = next(line for line in host.lines if line.startswith("ENV"))
        assert "AWS" not in seen
        assert "'MSRT_DATA'" in seen
        assert psutil.Process(host.pid).nice() >= 10

    _run(tmp_path, scenario)


def test_a_task_that_is_none_is_refused(tmp_path: Path) -> None:
    """A class that is missing or no Task is named; a bundle that is no zip is InvalidJob."""
    job = tmp_path / "job"
    job.mkdir()
    (job / "task.py").write_text("class Toy: ...\n")
    (job / "job.toml").write_text('name = "toy"\ntask = "task:Toy"\n')

    async def scenario(host: TrainerHost) -> None:
        with pytest.raises(
            JobFailed, match=r"^loading the task: task:Toy is not a msrt\.Task; job\.toml: task = 'module:Class'$"
        ):
            await host.start(pack(job).data)
        with pytest.raises(InvalidJob, match="not a zip"):
            await host.start(b"nonsense")

    _run(tmp_path, scenario)


def test_a_runner_dies_with_its_host(tmp_path: Path) -> None:
    """A host killed with SIGKILL leaves no runner behind."""
    (tmp_path / "bundle.zip").write_bytes(_bundle(tmp_path))
    script = (
        "import asyncio, sys; from pathlib import Path\n"
        "from msrt.training.host import TrainerHost; from msrt.world.field import field_world\n"
        "async def main():\n"
        "    path = Path(sys.argv[1]); host = TrainerHost(field_world(path / 'state'), path / 'work')\n"
        "    await host.start((path / 'bundle.zip').read_bytes())\n"
        "    print(host.pid, flush=True); host.pause(); await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )

    asyncio.run(_killed(script, tmp_path))


async def _killed(script: str, tmp_path: Path) -> None:
    host = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert host.stdout is not None
    pid = 0
    while not pid:
        line = await host.stdout.readline()
        pid = int(line) if line.strip().isdigit() else 0
    runner = psutil.Process(pid)
    host.send_signal(signal.SIGKILL)
    await host.wait()
    try:
        runner.wait(5)
    except psutil.NoSuchProcess:
        return
    assert not runner.is_running() or runner.status() == psutil.STATUS_ZOMBIE


def test_answers_are_small_messages() -> None:
    """A large payload never crosses the pipe: a trained answer without it is short."""
    answer = pipe.Trained(10, 20, "int8", {"loss": 1.0})
    assert msgspec.json.decode(pipe.encode(answer)[4:], type=pipe.Answer) == answer
