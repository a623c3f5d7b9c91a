"""The example job, as a user's bundle, through the runner."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from msrt.learning.aggregate import RunningSum
from msrt.learning.compress import open_codec
from msrt.learning.vector import advance, load
from msrt.training.bundle import pack
from msrt.training.host import TrainerHost
from msrt.training.local import load_task
from msrt.training.task import Node
from msrt.world.field import field_world

DIGITS = Path(__file__).parents[3] / "deploy" / "examples" / "digits"
NODES = [Node(f"n{i}", index=i, count=6) for i in range(6)]


def test_the_split_is_uneven_and_loses_nothing() -> None:
    """Every image has one owner, in one fold; a node sees mostly three or four digits; the file is scikit-learn's."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - a second to import

    config = pack(DIGITS).config
    seen = 0
    for fold in range(5):
        task = load_task(config.task, DIGITS, {"fold": fold})
        for node in NODES:
            train, test = task.data(node)
            seen += len(test[1])
            common = np.sort(np.bincount(train[1], minlength=10))[::-1]
            assert common[:4].sum() > 0.9 * common.sum()
    assert seen == 1797
    (train, _), whole = task.data(Node("all")), load_digits()
    assert len(train[1]) in {1437, 1438}
    module = sys.modules[type(task).__module__]
    assert np.array_equal(module.digits()[0], (whole.data / 16).astype(np.float32))
    assert np.array_equal(module.digits()[1], whole.target)


def test_the_digits_example_learns_through_the_runner(tmp_path: Path) -> None:
    """A few rounds of six nodes beat what any of them could know alone; the exported model answers the same."""

    async def main() -> None:
        host = TrainerHost(field_world(tmp_path / "state"), tmp_path / "work")
        try:
            config = await host.start(pack(DIGITS).data)
            assert config.rounds >= 20
            weights = await host.initial(30)
            size = load(weights)[0].size
            assert size >= 10_000
            for round_ in range(1, 7):
                total = RunningSum(size)
                for node in NODES:
                    trained = await host.train(node, round_, weights, "fp32", 30)
                    total.add(trained.payload.read_bytes(), open_codec("fp32", size), trained.samples)
                weights = advance(weights, total.mean())
            judged = await host.evaluate(weights, NODES, 30)
            assert judged.metrics["accuracy"] > 0.85
            assert judged.samples in {359, 360}
            exported = await host.export(weights, 30)
        finally:
            await host.stop()
        (tmp_path / "evaluation.npz").write_bytes(exported.evaluation)
        evaluation = np.load(tmp_path / "evaluation.npz")
        session = onnxruntime.InferenceSession(exported.onnx)
        answers = session.run(None, {"input": evaluation["x"]})[0].argmax(axis=1)
        assert abs((answers == evaluation["y"]).mean() - judged.metrics["accuracy"]) < 1e-9

    asyncio.run(main())
