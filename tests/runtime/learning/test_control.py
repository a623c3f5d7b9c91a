"""Controls beside a model: moved by shares, while the server's optimiser moves the model as if they were not there."""

from __future__ import annotations

import numpy as np
import pytest

from msrt.learning.control import CONTROL, Shares, moved_with_control, parts
from msrt.learning.history import History
from msrt.learning.optimise import Recipe, moved
from msrt.learning.vector import Layout, load, save

MODEL = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3, np.int64)}
BESIDE = {f"{CONTROL}w": np.full((2, 3), 0.5, np.float32)}
WHOLE = Layout.of(MODEL | BESIDE)


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
def test_the_model_moves_as_without_controls(kind: str) -> None:
    """Over two steps, with the optimiser's state between them."""
    recipe, shares = Recipe(kind), Shares(4.0, 10.0, 10.0)
    alone, whole = save(Layout.of(MODEL), Layout.of(MODEL).flatten(MODEL)), save(WHOLE, WHOLE.flatten(MODEL | BESIDE))
    state = beside = b""
    for step in (1.0, -2.0):
        update = np.full(WHOLE.size, step, np.float32)
        alone, state = moved(recipe, alone, state, update[:7], 0.1)
        whole, beside = moved_with_control(recipe, whole, beside, update, 0.1, shares)
    layout, flat = load(whole)
    assert layout == WHOLE
    assert np.array_equal(flat[:7], load(alone)[1])
    assert bytes(state) == bytes(beside)
    assert np.allclose(flat[7:], 0.5 + 0.4 * (1.0 - 2.0))


def test_the_control_is_the_mean_of_all_nodes_whoever_joins() -> None:
    """By samples: each change counts by its share of all that ever took part, and a new node begins with zero."""
    rng = np.random.default_rng(0)
    history, own, samples = History(), {}, {"a": 10, "b": 30, "c": 5, "d": 60}
    weights = save(WHOLE, WHOLE.flatten(MODEL | {f"{CONTROL}w": np.zeros((2, 3), np.float32)}))
    for number, nodes in enumerate(["ab", "b", "abc", "cd", "ad"], 1):
        included = {node: samples[node] for node in nodes}
        mean = np.zeros(6)
        for node in nodes:
            fresh = rng.standard_normal(6)
            mean += samples[node] * (fresh - own.get(node, 0.0))
            own[node] = fresh
        update = np.concatenate([np.zeros(7), mean / sum(included.values())]).astype(np.float32)
        weights, _ = moved_with_control(Recipe(), weights, b"", update, 1.0, history.shares(included))
        history.settle(history.after(number, included, included, {}))
        wanted = sum(samples[node] * control for node, control in own.items()) / sum(samples[node] for node in own)
        assert np.allclose(load(weights)[1][7:], wanted, atol=1e-5), number


def test_a_model_without_controls_is_all_model() -> None:
    """The parts of its layout."""
    layout = Layout.of(MODEL)
    assert parts(layout) == (layout, Layout(()))
