"""DP-SGD of one node: equal to plain arithmetic on gradients of single samples."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from msrt.errors import InvalidJob
from msrt.training.batches import take
from msrt.training.local import Local
from msrt.training.samples import SampleSteps, drawn
from msrt.training.settings import JobConfig
from msrt.training.task import Node, Task

NODE = Node("n0")
ROWS = 40
TINY = 1e-6
"""A noise that is nothing beside a gradient."""


class Small(Task):
    """Two layers on forty random rows."""

    def model(self):
        return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))

    def data(self, node):
        rng = np.random.default_rng(node.index)
        features = rng.standard_normal((ROWS, 6)).astype(np.float32) * np.arange(1, ROWS + 1, dtype=np.float32)[:, None]
        return (features, rng.integers(0, 3, ROWS)), (features[:4], np.zeros(4, np.int64))


class Normed(Small):
    """A layer that mixes the samples of a batch."""

    def model(self):
        return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3))


def local(task=Small, clip=1e6, noise=TINY, rate=1.0, **train):
    table = {"epochs": 1, "batch": 64, "lr": 0.1, "momentum": 0.0, **train}
    privacy = {"mode": "sample", "clip": clip, "noise": noise, "rate": rate}
    job = {"name": "small", "task": "none:Small", "train": table, "privacy": privacy}
    return Local(task({}), msgspec.convert(job, JobConfig))


def samples_gradients(one):
    """A flat gradient for each row, computed one by one."""
    (features, labels), _ = one.data(NODE)
    found = []
    for row in range(ROWS):
        one.model.zero_grad()
        one.task.loss(one.model, (features[row : row + 1], labels[row : row + 1])).backward()
        found.append(torch.cat([parameter.grad.reshape(-1) for parameter in one.model.parameters()]).numpy().copy())
    return np.stack(found).astype(np.float64)


@pytest.mark.parametrize("part", [64, 7, 1])
@pytest.mark.parametrize("clip", [1e6, 5.0, 0.1])
def test_a_step_is_the_mean_of_clipped_gradients(clip, part):
    """Each sample's gradient is scaled down to the clip; in parts of any size it is the same step."""
    one = local(clip=clip, batch=part)
    start = one.initial()
    one.put(start)
    gradients = samples_gradients(one)
    norms = np.linalg.norm(gradients, axis=1)
    expected = (gradients * np.minimum(1.0, clip / norms)[:, None]).sum(axis=0) / ROWS
    delta, _, metrics = one.train(start, NODE, 1)
    assert np.allclose(delta, -0.1 * expected, atol=1e-5 * clip if clip < 10 else 2e-2)
    assert metrics["work"] == 1.0


def test_every_step_has_noise_of_the_clip_also_an_empty_one():
    """One over the expected batch: gradients are small beside it, and at this rate most batches are empty."""
    one = local(clip=1e-6, noise=1e9, rate=0.02, lr=1.0)
    start = one.initial()
    steps = SampleSteps(one.task, one.model, 1e-6, 1e9, 0.8)
    drawn_noise = []
    for _ in range(60):
        steps.gradient(drawn(one.data(NODE)[0], ROWS, 0.02, 8))
        drawn_noise.append(torch.cat([p.grad.reshape(-1) for p in one.model.parameters()]).numpy().copy())
    steps.close()
    noise = np.concatenate(drawn_noise)
    assert noise.std() == pytest.approx(1e3 / 0.8, rel=5 / np.sqrt(2 * noise.size))
    assert start.size * 60 == noise.size


def test_a_batch_takes_each_sample_by_chance():
    """Of any size; every sample as often as the rate says, with others each time."""
    data = (torch.arange(200).reshape(200, 1),)
    batches = [torch.cat([part[0] for part in drawn(data, 200, 0.1, 7)]).reshape(-1).tolist() for _ in range(300)]
    sizes = np.array([len(batch) for batch in batches])
    assert sizes.mean() == pytest.approx(20, abs=5 * np.sqrt(18 / 300))
    assert sizes.var() == pytest.approx(18, rel=0.5)
    seen = np.bincount(np.concatenate(batches), minlength=200)
    assert seen.min() > 5
    assert all(len(set(batch)) == len(batch) for batch in batches)


def test_a_dataset_is_drawn_as_arrays_are():
    """Its items are collated in parts."""
    features, labels = torch.arange(50.0).reshape(50, 1), torch.arange(50)
    dataset = torch.utils.data.TensorDataset(features, labels)
    parts = list(drawn(dataset, 50, 1.0, 20))
    assert [len(part[0]) for part in parts] == [20, 20, 10]
    assert torch.equal(torch.cat([part[1] for part in parts]), take((labels,), np.arange(50))[0])


def test_as_many_steps_as_bring_each_sample_up_once_an_epoch():
    """And a share of them where the node is slow."""
    one = local(rate=0.25, epochs=3)
    assert one.train(one.initial(), NODE, 1)[2]["work"] == 1.0
    assert one.train(one.initial(), NODE, 1, work=0.5)[2]["work"] == 0.5


def test_the_model_is_as_it_was_afterwards():
    """No hook is left: it is judged, exported and trained again like any other."""
    one = local(rate=0.5)
    one.train(one.initial(), NODE, 1)
    assert not any(module._forward_hooks or module._backward_hooks for module in one.model.modules())
    assert one.evaluate(one.initial(), [NODE])[0] == 4


def test_a_layer_that_mixes_samples_is_refused_with_its_name():
    """Batch normalisation has no gradient of one sample."""
    with pytest.raises(InvalidJob, match="BatchNorm"):
        local(Normed).train(local(Normed).initial(), NODE, 1)


def test_without_noise_it_does_not_train():
    """A node does not take the word of a round that asks for none."""
    one = local()
    one.config = msgspec.structs.replace(
        one.config, privacy=msgspec.structs.replace(one.config.privacy, noise=None, epsilon=1.0)
    )
    with pytest.raises(InvalidJob, match="no noise"):
        one.train(one.initial(), NODE, 1)
