"""Shards of a model: whatever it is cut into, the same steps as of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from msrt.errors import Corrupt
from msrt.learning.optimise import Optimiser, Recipe
from msrt.learning.parameter_server.shard import Shard, codec_for, read_kept
from msrt.learning.parameter_server.shards import Span, spans

RECIPES = [Recipe("sgd"), Recipe("momentum"), Recipe("adam", bias_correction=True), Recipe("adagrad", beta1=0.0)]


def vectors(size, count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=size).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.kind)
def test_shards_take_the_steps_of_the_whole_by_the_mean_of_a_clock(recipe):
    """Three workers' gradients, weighed by their samples: to the rounding of float32 one optimiser's large batches."""
    weights, *gradients = vectors(5000, 13)
    samples = [16.0, 16.0, 5.0]
    cut = [Shard(at, span, weights[span.start : span.stop], recipe) for at, span in enumerate(spans(5000, 3))]
    whole, optimiser = weights.copy(), Optimiser(recipe, 5000)
    for clock in range(4):
        pushes = gradients[3 * clock : 3 * clock + 3]
        for shard in cut:
            codec = codec_for("fp32", shard.span)
            for push, weight in zip(pushes, samples, strict=True):
                shard.add(codec.encode(push[shard.span.start : shard.span.stop]), codec, weight)
            shard.step(0.1)
        mean = sum(push * np.float32(weight) for push, weight in zip(pushes, samples, strict=True)) / np.float32(37.0)
        optimiser.step(whole, -mean, 0.1)
    np.testing.assert_allclose(np.concatenate([shard.weights for shard in cut]), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.kind)
def test_a_shard_goes_on_from_its_bytes_bit_by_bit(recipe):
    """Weights, moments, and what is said of the pushes that are in it; a sum that is not over is not."""
    weights, *gradients = vectors(300, 4)
    span = Span(100, 400)
    one, codec = Shard(2, span, weights, recipe), codec_for("fp32", span)
    one.apply(codec.encode(gradients[0]), codec, 0.1)
    one.add(codec.encode(gradients[1]), codec, 3.0)
    other, kept = Shard.load(one.save(1.5, 7, {"a": 4}), recipe)
    assert (kept.index, kept.span, kept.progress, kept.turn, kept.applied) == (2, span, 1.5, 7, {"a": 4})
    for shard in (one.copy(), other):
        shard.apply(codec.encode(gradients[2]), codec, 0.2)
    copied = one.copy()
    copied.apply(codec.encode(gradients[2]), codec, 0.2)
    assert other.weights.tobytes() == copied.weights.tobytes()
    assert one.save(0.0, 0, {}) != copied.save(0.0, 0, {})


def test_nothing_pushed_is_no_step():
    """A clock that all workers missed moves nothing, not even by momentum."""
    shard = Shard(0, Span(0, 10), np.ones(10, np.float32), Recipe("momentum"))
    shard.step(0.1)
    assert shard.changes == 0


def test_weights_are_packed_once_between_two_updates():
    """Everybody who waited at a barrier gets the same bytes; they do not change under them."""
    shard, codec = Shard(0, Span(0, 10), np.ones(10, np.float32), Recipe()), codec_for("fp32", Span(0, 10))
    first = shard.pulled(codec)
    assert shard.pulled(codec) is first
    shard.apply(codec.encode(np.ones(10, np.float32)), codec, 1.0)
    np.testing.assert_array_equal(codec.decode(first), np.ones(10))
    np.testing.assert_array_equal(codec.decode(shard.pulled(codec)), np.zeros(10))


def test_damaged_bytes_are_refused():
    """Cut short, of another kind, with a head that lies, or not finite."""
    recipe = Recipe("momentum")
    shard = Shard(0, Span(0, 50), np.ones(50, np.float32), recipe)
    good = bytes(shard.save(0.0, 0, {}))
    for bad in (b"", good[:40], good[:-4], good + b"1234", b"X" + good[1:], good.replace(b'"state":', b'"stale":')):
        with pytest.raises(Corrupt):
            Shard.load(bad, recipe)
    shard.weights[3] = np.nan
    with pytest.raises(Corrupt, match="finite"):
        Shard.load(shard.save(0.0, 0, {}), recipe)
    assert read_kept(good)[0].span == Span(0, 50)
