"""Methods of local training against the papers' formulas, written straight here."""

from __future__ import annotations

import numpy as np
import pytest

from msrt.errors import InvalidJob
from msrt.learning.control import steered
from msrt.learning.history import History
from msrt.training.descent import Descent
from msrt.training.local import Local
from msrt.training.shelf import Shelf
from msrt.training.task import Node
from tests.runtime.training.quadratic import Quadratic, config


@pytest.mark.parametrize("mu", [0.0, 0.3, 2.0])
def test_fedprox_descends_on_the_loss_and_the_distance(mu):
    """Each step follows g(w) + mu (w - w_round); without mu it is FedAvg."""
    local = Local(Quadratic({}), config(epochs=5, batch=4, proximal=mu))
    start = local.initial()
    delta, _, _ = local.train(start, Node("n1", index=1), 3)
    x = start.astype(np.float64)
    for _ in range(10):
        x = x - 0.1 * (Quadratic.gradient(1, x) + mu * (x - start))
    assert np.allclose(delta, x - start, atol=1e-5)


def test_the_proximal_term_is_not_clipped():
    """`clip` bounds the gradient of the loss; what holds a node back holds whatever that is."""
    local = Local(Quadratic({}), config(epochs=6, clip=0.5, proximal=1.0))
    start = local.initial()
    delta, _, _ = local.train(start, Node("n0"), 1)
    x = start.astype(np.float64)
    for _ in range(6):
        gradient = Quadratic.gradient(0, x)
        gradient *= min(1.0, 0.5 / np.linalg.norm(gradient))
        x = x - 0.1 * (gradient + (x - start))
    assert np.allclose(delta, x - start, atol=1e-5)


def federated(local, rounds, nodes=(0, 1, 2), weights=None):
    """The model after so many rounds over these nodes, as masters move it: a mean by samples, controls by shares."""
    vector, history, size = local.initial(), History(), 2
    for number in range(1, rounds + 1):
        total, updates = 0, np.zeros_like(vector)
        included = {}
        for index in nodes:
            delta, samples, _ = local.train(vector, Node(f"n{index}", index=index), number)
            samples = (weights or {}).get(index, samples)
            updates, total = updates + samples * delta, total + samples
            included[f"n{index}"] = samples
        mean = (updates / total).astype(np.float32)
        fresh = vector + mean
        if local.config.train.algorithm == "scaffold":
            fresh[size:] = steered(vector[size:], mean[size:], history.shares(included))
        history.settle(history.after(number, included, included, {}))
        vector = fresh
    return vector


def reference(rounds, steps, lr, nodes=(0, 1, 2)):
    """SCAFFOLD as Karimireddy 2020, algorithm 1 with option II and a server's rate of 1, has it; in numpy."""
    x, c = np.array([4.0, -2.0]), np.zeros(2)
    own = {node: np.zeros(2) for node in nodes}
    for _ in range(rounds):
        ways, moves = [], []
        for node in nodes:
            y = x.copy()
            for _ in range(steps):
                y = y - lr * (Quadratic.gradient(node, y) - own[node] + c)
            fresh = own[node] - c + (x - y) / (steps * lr)
            ways.append(y - x)
            moves.append(fresh - own[node])
            own[node] = fresh
        x, c = x + np.mean(ways, axis=0), c + np.mean(moves, axis=0)
    return np.concatenate([x, c])


SCAFFOLD = {"epochs": 10, "lr": 0.05, "algorithm": "scaffold"}


def test_scaffold_is_the_algorithm_of_its_paper():
    """Model and control after some rounds, float32 against float64."""
    found = federated(Local(Quadratic({}), config(**SCAFFOLD)), 7)
    assert np.allclose(found, reference(7, 10, 0.05), atol=1e-4)


def test_scaffold_reaches_the_optimum_where_averaging_drifts():
    """Ten local steps on unlike nodes: FedAvg ends at the mean of where they pull, off the minimum of the whole."""
    drifts = federated(Local(Quadratic({}), config(epochs=10, lr=0.05)), 60)
    steady = federated(Local(Quadratic({}), config(**SCAFFOLD)), 60)
    assert np.abs(drifts - Quadratic.optimum()).min() > 0.1
    assert np.allclose(steady[:2], Quadratic.optimum(), atol=1e-3)


def test_a_node_that_weighs_more_pulls_more_and_the_controls_follow():
    """By samples, the minimum is that of the weighed whole; controls that counted nodes would miss it."""
    weights = {0: 5, 1: 1, 2: 2}
    optimum = sum(w * a * b for (a, b), w in zip(Quadratic.CURVES, weights.values(), strict=True)) / sum(
        w * a * a for (a, _), w in zip(Quadratic.CURVES, weights.values(), strict=True)
    )
    found = federated(Local(Quadratic({}), config(**SCAFFOLD)), 100, weights=weights)
    assert np.allclose(found[:2], optimum, atol=1e-3)


def test_scaffold_without_plain_descent_is_refused():
    """Where a task brings an optimiser of its own, before it does a step."""

    class Other(Quadratic):
        def optimiser(self, model, settings):
            return Descent(model.parameters(), settings.lr, momentum=0.9)

    local = Local(Other({}), config(**SCAFFOLD))
    with pytest.raises(InvalidJob, match="plain descent"):
        local.train(local.initial(), Node("n0"), 1)


def test_a_control_that_was_not_counted_is_taken_back():
    """The server never added it: the next round of the node begins with the newest that it did add."""
    local = Local(Quadratic({}), config(**SCAFFOLD))
    start = local.initial()
    once, _, _ = local.train(start, Node("n0"), 1)
    lost, _, _ = local.train(start, Node("n0"), 2, counted=0)
    assert np.array_equal(once, lost)
    kept, _, _ = local.train(start, Node("n0"), 3, counted=2)
    assert not np.array_equal(once, kept)


def test_a_round_that_is_trained_again_begins_where_it_began(tmp_path):
    """From files as from memory: not with what the first try left."""
    local, shelf = Local(Quadratic({}), config(**SCAFFOLD)), Shelf(tmp_path)
    start = local.initial()
    for number in (1, 2):
        local.train(start, Node("n0"), number, keeper=shelf)
    first, _, _ = local.train(start, Node("n0"), 3, keeper=shelf)
    again, _, _ = local.train(start, Node("n0"), 3, keeper=Shelf(tmp_path))
    assert np.array_equal(first, again)
    assert {path.name for path in tmp_path.iterdir()} == {"control-2.f32", "control-3.f32"}
