from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from msrt.training.task import Node, Task
from tests.examples.simulated import Chances, simulation, task_of


def test_devices_differ_as_the_paper_makes_them() -> None:
    """Thirty of them of very unequal size, their centres and the classes they see spread; a tenth judges."""
    task, _ = task_of("synthetic")
    parts = [task.data(Node("n", index=at, count=30)) for at in range(30)]
    sizes = np.array([len(train[1]) + len(test[1]) for train, test in parts])
    assert sizes.min() >= 50
    assert sizes.max() > 5 * np.median(sizes)
    assert all(len(train[1]) == int(0.9 * size) for (train, _), size in zip(parts, sizes, strict=True))
    centres = np.array([train[0].mean() for train, _ in parts])
    assert centres.std() > 0.5, "N(0, beta) moves all features of a device together"
    spread = np.mean([train[0].std(axis=0) for train, _ in parts if len(train[1]) > 100], axis=0)
    assert np.allclose(spread, np.arange(1, 61) ** -0.6, rtol=0.15)
    common = [np.bincount(train[1], minlength=10).max() / len(train[1]) for train, _ in parts]
    assert np.median(common) > 0.3, "a device sees few classes"


def test_what_stragglers_did_counts() -> None:
    """Rounds in which nine of ten do a part of their epochs: ten nodes are in each, and the model learns."""
    job = simulation("synthetic", 30, chances=Chances(0.9), rounds=4, train={"epochs": 2})
    before = job.judge()["loss"]
    lines = list(job.run())
    assert [line["nodes"] for line in lines] == [10] * 4
    assert all(line["work"] < 1 for line in lines)
    assert job.judge()["loss"] < before


@pytest.mark.parametrize("settings", [{"proximal": 1.0}, {"proximal": 0.0, "momentum": 0.9}, {"clip": 0.1}])
def test_the_formula_is_the_gradient_that_autograd_finds(settings: dict[str, float], monkeypatch: Any) -> None:
    """Trained by either, the round's update is the same but for rounding; so is the loss."""
    job = simulation("synthetic", 30, train={"epochs": 2, **settings})
    node = min(job.nodes.values(), key=lambda node: len(job.local.data(node)[0][0]))
    formula, samples, told = job.local.train(job.weights, node, 1)
    formula = formula.copy()
    monkeypatch.setattr(type(job.local.task), "differentiate", Task.differentiate)
    autograd, same, found = job.local.train(job.weights, node, 1)
    assert samples == same
    assert told["train_loss"] == pytest.approx(found["train_loss"], rel=1e-5)
    assert np.abs(formula).max() > 1e-3
    assert np.allclose(formula, autograd, atol=1e-6)
