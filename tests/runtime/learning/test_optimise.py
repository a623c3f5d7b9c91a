from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.errors import Corrupt, InvalidJob
from msrt.learning.optimise import ADAPTIVE, SPAN, Kind, Optimiser, Recipe, moved
from msrt.learning.vector import Layout, Vector, load, save

KINDS: tuple[Kind, ...] = ("sgd", "momentum", "adam", "yogi", "adagrad")


def _updates(size: int, count: int, seed: int = 0) -> list[Vector]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(size).astype(np.float32) for _ in range(count)]


def _plain(recipe: Recipe, weights: Vector, updates: list[Vector], rate: float) -> np.ndarray:
    """Algorithm 2 of Reddi 2021 (and Hsu 2019), letter by letter in float64."""
    w, v = weights.astype(np.float64), np.zeros(weights.size)
    m, s = np.zeros(weights.size), np.full(weights.size, recipe.epsilon**2)
    for update in updates:
        d = update.astype(np.float64)
        if recipe.kind in ADAPTIVE:
            m = recipe.beta1 * m + (1 - recipe.beta1) * d
            s = {
                "adagrad": s + d * d,
                "yogi": s - (1 - recipe.beta2) * d * d * np.sign(s - d * d),
                "adam": recipe.beta2 * s + (1 - recipe.beta2) * d * d,
            }[recipe.kind]
            w = w + rate * m / (np.sqrt(s) + recipe.epsilon)
        elif recipe.kind == "momentum":
            v = recipe.momentum * v + d
            w = w + rate * v
        else:
            w = w + rate * d
    return w


@settings(max_examples=40)
@given(st.sampled_from(KINDS), st.integers(1, 300) | st.just(SPAN + 7), st.integers(0, 2**31))
def test_each_is_the_algorithm_of_its_paper(kind: Kind, size: int, seed: int) -> None:
    """Ten updates by spans in float32 end where the formulas in float64 do."""
    recipe, updates = Recipe(kind, beta1=0.8, beta2=0.95, epsilon=0.01), _updates(size, 10, seed)
    weights = np.linspace(-1, 1, size, dtype=np.float32)
    wanted = _plain(recipe, weights, updates, 0.1)
    optimiser = Optimiser(recipe, size)
    for update in updates:
        optimiser.step(weights, update, 0.1)
    assert np.allclose(weights, wanted, atol=2e-5)


@pytest.mark.parametrize(
    ("recipe", "theirs"),
    [
        (Recipe("sgd"), lambda p: torch.optim.SGD(p, 0.1)),
        (Recipe("momentum"), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
        (Recipe("momentum", nesterov=True), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True)),
        (
            Recipe("adam", beta2=0.999, epsilon=1e-8, bias_correction=True),
            lambda p: torch.optim.Adam(p, 0.1, betas=(0.9, 0.999), eps=1e-8),
        ),
        (
            Recipe("adagrad", beta1=0.0, epsilon=1e-4),
            lambda p: torch.optim.Adagrad(p, 0.1, initial_accumulator_value=1e-8, eps=1e-4),
        ),
    ],
    ids=["sgd", "momentum", "nesterov", "adam", "adagrad"],
)
def test_torch_agrees_where_it_has_the_same(recipe: Recipe, theirs: object) -> None:
    """An update is minus a gradient: after twenty steps the weights are those of torch.optim."""
    weights = np.linspace(-1, 1, 100, dtype=np.float32)
    parameter = torch.nn.Parameter(torch.from_numpy(weights.copy()))
    peer = theirs([parameter])  # type: ignore[operator]
    optimiser = Optimiser(recipe, weights.size)
    for update in _updates(weights.size, 20):
        optimiser.step(weights, update, 0.1)
        parameter.grad = torch.from_numpy(-update)
        peer.step()
    assert np.allclose(weights, parameter.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_parts_moves_as_a_whole_one(kind: Kind) -> None:
    """Bit by bit: servers that have a part each need not agree on where it was cut."""
    size, cut = SPAN + 1000, 12_345
    whole = np.linspace(-1, 1, size, dtype=np.float32)
    parts = [whole[:cut].copy(), whole[cut:].copy()]
    one = Optimiser(Recipe(kind), size)
    two = [Optimiser(Recipe(kind), part.size) for part in parts]
    for update in _updates(size, 3):
        one.step(whole, update, 0.1)
        two[0].step(parts[0], update[:cut], 0.1)
        two[1].step(parts[1], update[cut:], 0.1)
    assert np.array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_state_goes_on_as_if_nothing_had_been(kind: Kind) -> None:
    """Six steps at once and three, saved, loaded, three more end at the same bits; what was given is not touched."""
    layout = Layout.of({"w": np.zeros((5, 7), np.float32)})
    start, recipe = save(layout, np.linspace(-1, 1, 35, dtype=np.float32)), Recipe(kind, bias_correction=True)
    weights, state = start, b""
    straight = load(start)[1].copy()
    optimiser = Optimiser(recipe, 35)
    for number, update in enumerate(_updates(35, 6)):
        given_weights, given_state = bytes(weights), bytes(state)
        optimiser.step(straight, update, 0.1)
        after, new = moved(recipe, weights, state, update, 0.1)
        assert (bytes(weights), bytes(state)) == (given_weights, given_state), number
        weights, state = after, new
    assert np.array_equal(load(weights)[1], straight)
    assert bool(state) is (kind != "sgd")


def test_a_state_of_something_else_is_refused() -> None:
    """Another optimiser, another model, cut short, not finite, no state at all."""
    recipe, digest = Recipe("adam"), Layout.of({"w": np.zeros(4, np.float32)}).digest
    data = bytes(Optimiser(recipe, 4).save(digest))
    assert Optimiser.load(data, recipe, digest).steps == 0
    bad = [
        (data, Recipe("yogi"), digest),
        (data, recipe, Layout.of({"v": np.zeros(4, np.float32)}).digest),
        (data[:-4], recipe, digest),
        (data[:-4] + np.float32(np.nan).tobytes(), recipe, digest),
        (b"MSRTOPT1" + bytes(100), recipe, digest),
        (b"", recipe, digest),
        (data[:8] + b"\xff\xff\xff\x7f" + data[12:], recipe, digest),
    ]
    for bytes_, asked, model in bad:
        with pytest.raises(Corrupt):
            Optimiser.load(bytes_, asked, model)


def test_an_update_of_another_size_is_refused() -> None:
    """And nothing moves."""
    optimiser, weights = Optimiser(Recipe("adam"), 4), np.ones(4, np.float32)
    with pytest.raises(InvalidJob, match="an update of 5 elements"):
        optimiser.step(weights, np.ones(5, np.float32), 0.1)
    assert (optimiser.steps, weights.sum()) == (0, 4.0)
