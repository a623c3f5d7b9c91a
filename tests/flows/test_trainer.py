from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from msrt.errors import JobFailed
from msrt.learning.aggregate import RunningSum
from msrt.learning.compress import open_codec
from msrt.training.bundle import pack
from msrt.training.task import Node
from msrt.training.trainer import Trainer, Workshop
from tests.flows.trainer import SIZE, SimulatedTrainer, known_mean


def _bundle(directory: Path) -> bytes:
    (directory / "job.toml").write_text('name = "sim"\ntask = "none:None_"\n')
    return pack(directory).data


def test_the_mean_shows_who_is_in_it(tmp_path: Path) -> None:
    """The sum of simulated updates is exactly the known mean of the included nodes."""

    async def main() -> None:
        simulated = SimulatedTrainer(lambda node, round_: 0.0)
        trainer: Trainer = simulated
        workshop: Workshop = simulated
        await trainer.start(_bundle(tmp_path))
        weights = await workshop.initial(1)
        total, included = RunningSum(SIZE), {}
        for name in ("a", "b", "c"):
            trained = await trainer.train(Node(name), 3, weights, "fp32", 1)
            total.add(trained.payload, open_codec("fp32", SIZE), trained.samples)
            included[name] = trained.samples
        assert np.allclose(total.mean(), known_mean("sim", 3, included), rtol=1e-6)

    asyncio.run(main())


def test_a_slow_node_runs_into_its_deadline(tmp_path: Path) -> None:
    """Rounds last as long as the test says; a paused one fails at its deadline."""

    async def main() -> None:
        trainer = SimulatedTrainer(lambda node, round_: 0.0)
        await trainer.start(_bundle(tmp_path))
        trainer.pause()
        with pytest.raises(JobFailed, match="killed"):
            await trainer.train(Node("a"), 1, await trainer.initial(1), "int8", 0.05)

    asyncio.run(main())
