"""Partial work of one node: by share, by the clock; what it says of it."""

from __future__ import annotations

import numpy as np
import pytest

from msrt.training.local import Local
from msrt.training.task import Node
from tests.runtime.training.quadratic import Quadratic, config

NODE = Node("n0")


class Ticking:
    """A clock that goes on by a second each time it is read."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1.0
        return self.seconds


def steps(local, **how):
    """(steps of plain descent that give this update, what it says it did) of a node whose gradient is known."""
    start = local.initial()
    delta, _, metrics = local.train(start, NODE, 1, **how)
    x, count = start.astype(np.float64), 0
    while not np.allclose(x, start + delta, atol=1e-5):
        x = x - 0.1 * Quadratic.gradient(0, x)
        count += 1
        assert count < 100, delta
    return count, metrics["work"]


def test_without_a_bound_a_node_does_all_its_epochs():
    """Three epochs of two batches are six steps."""
    assert steps(Local(Quadratic({}), config(epochs=3, batch=4))) == (6, 1.0)


@pytest.mark.parametrize(("share", "done"), [(0.5, 3), (1 / 3, 2), (0.001, 1)])
def test_a_share_of_the_work_is_that_share_of_all_batches(share, done):
    """Whole epochs where it is so many of them, at least one batch; the same each time."""
    local = Local(Quadratic({}), config(epochs=3, batch=4))
    assert steps(local, work=share) == (done, done / 6)
    assert steps(local, work=share) == (done, done / 6)


def test_the_clock_ends_the_work_after_a_batch():
    """The clock is read once before the work and once after each batch: three seconds are three batches."""
    assert steps(Local(Quadratic({}), config(epochs=3, batch=4), Ticking()), within=3.0) == (3, 0.5)


def test_the_first_batch_is_always_done():
    """Somebody so slow that his time is over before he began sends one step, not nothing."""
    assert steps(Local(Quadratic({}), config(epochs=3, batch=4), Ticking()), within=0.001) == (1, 1 / 6)


def test_a_job_may_bound_the_seconds_itself():
    """[train] within_s holds where the round asks for more, or for nothing."""
    local = Local(Quadratic({}), config(epochs=3, batch=4, within_s=2.0), Ticking())
    assert steps(local)[0] == 2
    assert steps(local, within=100.0)[0] == 2
    assert steps(local, within=0.5)[0] == 1


def test_a_node_without_data_has_a_baseline():
    """It learns nothing alone, and does not learn for ever."""
    alone, _ = Local(Quadratic({"rows": 0}), config()).baseline([NODE])
    assert alone == [0.0]
