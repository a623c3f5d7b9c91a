"""Private jobs in one process: what a tree would add and spend; what a small model learns under it."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from msrt.errors import InvalidJob
from msrt.learning.aggregate import scale_down
from msrt.training.local import Local
from msrt.training.settings import JobConfig
from msrt.training.simulation import Shape, Simulation
from msrt.training.task import Task
from tests.runtime.training.simulation.blobs import simulation


@pytest.fixture(autouse=True)
def one_thread():
    """As in a node's process: two on a busy machine wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


EXACT = 'compression = "fp32"\n'


def private(clip, noise, more="", **how):
    return simulation(f'{EXACT}[privacy]\nmode = "central"\nclip = {clip}\nnoise = {noise}\n{more}', **how)


@pytest.mark.parametrize("regions", [1, 3])
def test_a_round_is_the_mean_of_clipped_updates_of_equals(regions):
    """With noise that is nothing: whoever has more samples weighs no more, however the nodes are spread."""
    job = private(0.01, 1e-6, rounds=1, shape=Shape((regions,), 6))
    start = job.weights
    updates = [job.local.train(start, node, 1)[0].copy() for node in job.nodes.values()]
    clipped = [update * scale_down(float(np.linalg.norm(update)), 0.01) for update in updates]
    list(job.run())
    assert np.allclose(job.weights, start + np.mean(clipped, axis=0), atol=1e-6)


def test_it_ends_when_the_budget_is_spent_and_says_so():
    """Its lines say what each round had spent; without `metrics` nobody tells a loss."""
    job = private(1.0, 4.0, "budget = 1.5", rounds=50)
    lines = list(job.run())
    report = job.report()
    assert 1 < len(lines) < 50
    assert lines[-1]["epsilon"] <= 1.5
    assert report["epsilon"] == lines[-1]["epsilon"]
    assert report["state"] == "finished"
    assert report["reason"] == f"its privacy budget is spent after round {len(lines)}"
    assert lines[0]["loss"] is None


def test_a_seed_gives_its_noise_again():
    """So that a simulation can be repeated; another seed has another noise."""
    one, two = private(1.0, 1.0), private(1.0, 1.0)
    other = simulation(f'{EXACT}seed = 5\n[privacy]\nmode = "central"\nclip = 1.0\nnoise = 1.0\n')
    for job in (one, two, other):
        list(job.run())
    assert np.array_equal(one.weights, two.weights)
    assert not np.array_equal(one.weights, other.weights)


@pytest.mark.parametrize("mode", ['mode = "local"', 'mode = "sample"\nrate = 0.5'], ids=["local", "sample"])
def test_nodes_noise_is_in_their_updates(mode):
    """The weights go where the noise drives them."""
    quiet, loud = (
        simulation(f"{EXACT}[privacy]\n{mode}\nclip = 0.1\nnoise = {noise}\n", rounds=1) for noise in (1e-4, 1e8)
    )
    for job in (quiet, loud):
        list(job.run())
    assert np.abs(loud.weights - loud.local.initial()).max() > 10.0
    assert np.abs(quiet.weights - quiet.local.initial()).max() < 1.0


def test_what_cannot_be_paid_is_refused():
    """As on the cloud: no noise keeps so many rounds to so little."""
    with pytest.raises(InvalidJob, match="private rounds"):
        private(1.0, 1.0, rounds=20_000)


class Softmax(Task):
    """Digits by one linear layer, 650 numbers."""

    def model(self):
        return torch.nn.Linear(64, 10)

    def data(self, node):
        from sklearn.datasets import load_digits  # noqa: PLC0415 - a second to import

        found = load_digits()
        features, labels = (found.data / 16).astype(np.float32), found.target
        order = np.random.default_rng(0).permutation(len(labels))
        mine, test = order[300:][node.index :: node.count], order[:300]
        return (features[mine], labels[mine]), (features[test], labels[test])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_digits_are_learned_with_a_small_epsilon():
    """150 nodes of ten images each, 20 rounds, epsilon 8 at delta 1e-5: nine of ten digits are known afterwards, within
    nine points of the same job without privacy."""
    train = {"epochs": 3, "batch": 10, "lr": 0.5, "momentum": 0.0}
    plain = {"name": "softmax", "task": "none:Softmax", "rounds": 20, "compression": {"region": "fp32"}, "train": train}
    reached = []
    for more in ({}, {"privacy": {"mode": "central", "clip": 0.5, "epsilon": 8.0}}):
        local = Local(Softmax({}), msgspec.convert(plain | more, JobConfig))
        ticks = iter(range(1 << 20))
        job = Simulation(local, Shape((2,), 150), lambda ticks=ticks: float(next(ticks)), lambda: 0.0)
        list(job.run())
        reached.append(job.judge()["accuracy"])
    assert job.lines[-1]["epsilon"] == pytest.approx(8.0, rel=1e-6)
    assert len(job.lines) == 20
    assert reached[1] > 0.86
    assert reached[1] > reached[0] - 0.09


def test_a_node_spends_in_the_rounds_that_ask_it_and_is_not_drawn_beyond_its_budget():
    """Two of six a round, about four rounds a node: some twelve rounds, and what the lines say is the node's that spent
    most.
    """
    tail = '[privacy]\nmode = "local"\nclip = 1.0\nnoise = 8.0\nbudget = 2.2\n[sampling]\ncount = 2\n'
    job = simulation(f"{EXACT}{tail}", rounds=50, shape=Shape((1,), 6))
    lines = list(job.run())
    ledger = job._hidden.ledger
    assert {row.rounds for row in ledger.rows.values()} == {ledger.limit}
    assert ledger.limit * 3 <= len(lines) <= ledger.limit * 3 + 3
    assert lines[-1]["epsilon"] <= 2.2
    assert lines[-1]["nodes_spent"] == 6
    assert [line["epsilon"] for line in lines] == sorted(line["epsilon"] for line in lines)
