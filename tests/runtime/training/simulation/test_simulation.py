"""A job in one process gives what the pieces give when they are put together by hand, and what a tree would refuse."""

from __future__ import annotations

import numpy as np
import pytest

from msrt import errors
from msrt.training.simulation import Chances, Shape, parse_shape
from tests.runtime.training.simulation.blobs import simulation

FLOAT = 'compression = "fp32"\n'


def test_a_round_is_the_weighted_mean_of_what_the_nodes_did() -> None:
    """Whatever the regions: the first round moves the weights by the mean update, weighted by samples."""
    for regions in (1, 2, 3):
        job = simulation(FLOAT, rounds=1, shape=Shape((regions,), 6))
        start, parts = job.weights, []
        for node in job.nodes.values():
            delta, samples, _ = job.local.train(start, node, 1)
            parts.append((samples, delta.copy()))
        list(job.run())
        mean = sum(samples * delta for samples, delta in parts) / sum(samples for samples, _ in parts)
        assert np.allclose(job.weights, start + mean, atol=1e-6)


@pytest.mark.parametrize("tree", ["1x8", "2x4", "2x2x2", "2x1x2x2"])
def test_masters_between_change_the_way_and_not_the_sum(tree: str) -> None:
    """Any depth of tree: sums of sums move the weights as one sum does, and only the highest masters' bytes come in."""
    flat, deep = (simulation(FLOAT, rounds=2, shape=shape) for shape in (Shape((1,), 8), parse_shape(tree)))
    for job in (flat, deep):
        list(job.run())
    assert np.allclose(deep.weights, flat.weights, atol=1e-6)
    assert {line["bytes_up"] for line in deep.lines} == {int(tree[0]) * 12 * 4}
    assert {line["nodes"] for line in deep.lines} == {8}
    assert deep.lines[0]["worst_decile"] == flat.lines[0]["worst_decile"]


def test_a_deep_tree_compresses_on_every_hop() -> None:
    """Each master remembers what its own codec left out; regions take steps of their own below others."""
    codecs = "".join(f'{link} = "topk:0.25"\n' for link in ("device", "region"))
    toml = f"[train]\nlr = 0.2\n[pace]\nsteps = 2\n[compression]\n{codecs}"
    job = simulation(toml, rounds=30, shape=parse_shape("2x2x2"))
    list(job.run())
    assert job.judge()["accuracy"] > 0.9
    assert {line["nodes"] for line in job.lines} == {8}


@pytest.mark.parametrize("tier", ["cloud", "region"])
def test_a_rule_outvotes_a_liar(tier: str) -> None:
    """The median, on the cloud or in each region, where two nodes' labels are wrong and their steps are long."""
    for rule, better in (("mean", False), ("median", True)):
        table = f'[aggregate]\nrule = "{rule}"\n' + (f'tier = "{tier}"\n' if better else "")
        job = simulation(f"{FLOAT}[train]\nlr = 0.3\n{table}", rounds=6, shape=Shape((2,), 10), liars=["n1", "n2"])
        list(job.run())
        assert (job.judge()["accuracy"] > 0.75) == better


def test_a_line_says_what_a_real_jobs_line_says() -> None:
    """Loss, accuracy, nodes and bytes of each round: an update of 12 float32 from each region, the model to each."""
    job = simulation(FLOAT)
    lines = list(job.run())
    job.finish()
    report = job.report()
    assert [line["round"] for line in lines] == [1, 2, 3, 4]
    assert {line["bytes_up"] for line in lines} == {2 * 12 * 4}
    assert {line["bytes_from_nodes"] for line in lines} == {6 * 12 * 4}
    assert all(line["bytes_down"] > 2 * 12 * 4 and line["nodes"] == 6 for line in lines)
    assert report["accuracy"] > lines[0]["accuracy"]
    assert (report["state"], report["alone_mean"], report["pooled"]) == ("finished", None, None)


def test_the_same_seed_gives_the_same_bits() -> None:
    """With dice in the codec, a draw of participants and stragglers by chance."""
    toml = 'max_nodes = 4\nquorum = 0.1\ncompression = "int8"\n'
    one, two = (simulation(toml, chances=Chances(0.5)) for _ in range(2))
    for job in (one, two):
        list(job.run())
    assert np.array_equal(one.weights, two.weights)
    assert {line["nodes"] for line in one.lines} == {2}
    assert {line["absent"] for line in one.lines} == {2}


def test_stragglers_send_what_they_have_done_where_the_job_takes_it() -> None:
    """All of them are in the line, with the share of their epochs that was done; else they are absent."""
    for partial, nodes in (("true", 6), ("false", 3)):
        job = simulation(f"[train]\nepochs = 4\n[pace]\npartial = {partial}\n", rounds=2, chances=Chances(0.5))
        lines = list(job.run())
        assert [line["nodes"] for line in lines] == [nodes, nodes]
        assert all((line["work"] < 1) == (partial == "true") for line in lines)


def test_a_long_update_is_clipped() -> None:
    """One round with [aggregate] clip moves the model no further than that."""
    job = simulation("[train]\nlr = 1.0\n[aggregate]\nclip = 0.25\n", rounds=1)
    start = job.weights
    list(job.run())
    assert 0 < np.linalg.norm(job.weights - start) <= 0.26


def test_with_a_baseline_nodes_are_judged_alone_and_pooled() -> None:
    """A node alone knows less than all of them together."""
    job = simulation("[baseline]\n", rounds=8)
    list(job.run())
    job.finish()
    report = job.report()
    assert report["alone_mean"] < report["pooled"]


def test_error_feedback_makes_up_for_what_a_codec_leaves_out() -> None:
    """Of 12 elements two travel each way; what was left out comes later, down as well as up."""
    codecs = "".join(f'{link} = "topk:0.2"\n' for link in ("device", "region", "down"))
    job = simulation(f"[train]\nlr = 0.2\n[compression]\n{codecs}", rounds=40)
    list(job.run())
    job.finish()
    assert job.report()["accuracy"] > 0.9
    assert {line["update_bytes"] for line in job.lines} == {2 * 8.0}
    assert not np.array_equal(job.served, job.weights)


def test_regions_do_rounds_of_their_own() -> None:
    """Two steps of a region move the model further than one, for the same bytes into the cloud."""
    once, twice = (simulation(f"{FLOAT}[pace]\nsteps = {steps}\n", rounds=1) for steps in (1, 2))
    start = once.weights
    for job in (once, twice):
        list(job.run())
    assert np.linalg.norm(twice.weights - start) > np.linalg.norm(once.weights - start)
    assert twice.lines[0]["bytes_up"] == once.lines[0]["bytes_up"]


def test_a_node_that_cannot_train_is_reported() -> None:
    """One without data and one whose numbers are not finite are named in the line; the others' round counts."""
    job = simulation(rounds=1, empty=["n1"], wild=["n2"])
    [line] = job.run()
    assert line["nodes"] == 4
    assert "no training data" in line["failed"]["n1"]
    assert "not finite" in line["failed"]["n2"]


def test_a_job_without_quorum_fails_with_the_reason() -> None:
    """Rounds are given up as the cloud gives them up; five in a row end the job."""
    job = simulation(empty=["n0", "n1", "n2", "n3"])
    with pytest.raises(errors.JobFailed, match=r"5 rounds in a row.*2 of 6.*n0 said.*no training data"):
        list(job.run())


@pytest.mark.parametrize(
    ("toml", "word"),
    [("min_nodes = 7\n", "waits for 7 nodes"), ("[pace]\nbuffer = 3\n", r"\[pace\] buffer is not simulated")],
)
def test_what_needs_time_or_more_nodes_is_refused(toml: str, word: str) -> None:
    """Rather than simulated wrongly."""
    with pytest.raises(errors.InvalidJob, match=word):
        simulation(toml)


def test_a_tree_with_more_regions_than_nodes_is_refused() -> None:
    """Every lowest master has a node."""
    with pytest.raises(errors.CallerError, match="cannot be"):
        Shape((4,), 3)


def test_a_tree_is_read_from_the_top() -> None:
    """Masters on each level, then the nodes of each lowest one; what is no tree is refused."""
    assert parse_shape("2x4x8") == Shape((2, 4), 64)
    assert {parse_shape("2x4x8").homes(at) for at in range(64)} == {(a, b) for a in range(2) for b in range(4)}
    for text in ("8", "2x", "0x3", "2x-1", "ax2", "99999x99999"):
        with pytest.raises(errors.CallerError, match=r"no tree|cannot be"):
            parse_shape(text)
