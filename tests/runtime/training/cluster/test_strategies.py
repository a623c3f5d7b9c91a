"""Every strategy trains what one process trains, and goes on from a checkpoint however many processes load it."""

from __future__ import annotations

import numpy as np
import pytest

from msrt.errors import InvalidJob, JobFailed
from tests.runtime.training.cluster.jobs import NODE

TRAIN = "clip = 0.5\nproximal = 0.3"


@pytest.mark.parametrize(
    ("kind", "count", "more"),
    [
        ("Blocks", 2, 'strategy = "fsdp"\naccumulate = 3\ncheckpoint_activations = true'),
        pytest.param("Adam", 3, 'strategy = "fsdp"', marks=pytest.mark.slow),
        ("Small", 2, 'strategy = "tensor"'),
        pytest.param("Blocks", 4, 'strategy = "tensor"\ntensor = 2', marks=pytest.mark.slow),
        ("Small", 2, 'strategy = "pipeline"\naccumulate = 4'),
        pytest.param("Adam", 3, 'strategy = "pipeline"\nschedule = "gpipe"', marks=pytest.mark.slow),
        ("Blocks", 3, "checkpoint_activations = true"),
    ],
    ids=["fsdp", "fsdp adam", "tensor", "data x tensor", "pipeline", "gpipe adam", "ddp"],
)
def test_a_strategy_trains_what_one_process_trains(job, kind, count, more):
    """Two rounds, with clipping, a proximal term and batches that do not divide."""
    made = job(more + "\ncheckpoint_steps = 0", TRAIN, kind=kind, count=count)
    assert made.distance(1) < 1e-4
    assert made.distance(2) < 1e-4
    assert made.metrics["processes"] == count


@pytest.mark.parametrize(
    "more",
    [
        'strategy = "fsdp"',
        pytest.param('strategy = "tensor"', marks=pytest.mark.slow),
        pytest.param('strategy = "pipeline"', marks=pytest.mark.slow),
        pytest.param('strategy = "tensor"\ntensor = 1', marks=pytest.mark.slow),
    ],
)
def test_half_precision_is_near(job, more):
    """bfloat16 under every strategy."""
    assert 0 < job(more + '\nprecision = "bf16"\ncheckpoint_steps = 0').distance(1) < 0.1


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [("Small", "ddp"), pytest.param("Adam", "fsdp", marks=pytest.mark.slow),
     pytest.param("Small", "pipeline", marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_round_goes_on_with_another_number_of_processes(job, kind, strategy):
    """Two processes die after a checkpoint; one, two or three train the rest, and it is what it would have been.

    But for rounding, which AdamW makes larger where a gradient is next to nothing.
    """
    more = f'strategy = "{strategy}"\ncheckpoint_steps = 3'
    for count in (1, 2, 3):
        broken = job(more, kind=kind)
        micro = 15 if strategy == "pipeline" else 8  # it calls the loss for two, of the shorter batch three
        (broken.doors / f"step-{micro}").write_text("kill")
        with pytest.raises(JobFailed, match="workers failed"):
            broken.many.train(broken.one.initial(), NODE, 1)
        broken.many.group.close()
        other = job(more, kind=kind, count=count, work=broken.work)
        assert other.distance(1) < (1e-3 if kind == "Adam" else 1e-4)
        assert other.metrics["resumed_at"] == 6
        assert other.metrics["processes"] == count


def test_a_plan_that_changes_the_model_is_refused(job):
    """Softmax over divided features gives other answers: said before a step is trained."""
    made = job('strategy = "tensor"', kind="Wrong")
    with pytest.raises(InvalidJob, match=r"the model's loss is .* instead of"):
        made.many.train(made.one.initial(), NODE, 1)


def test_a_model_that_is_no_sequence_has_no_pipeline(job):
    """Said by its name."""
    made = job('strategy = "pipeline"', kind="Blocks")
    with pytest.raises(InvalidJob, match=r"needs an nn\.Sequential, not Net"):
        made.many.train(made.one.initial(), NODE, 1)


def test_the_largest_batch_is_found_and_kept(job):
    """It is bounded by the data here; the same in the next round, and after a restart of everything."""
    made = job('batch = "auto"', train="momentum = 0.5")
    first, _, told = made.many.train(made.one.initial(), NODE, 1)
    assert told["batch"] == 105
    made.many.group.close()
    other = job('batch = "auto"', train="momentum = 0.5", work=made.work)
    again, _, told = other.many.train(made.one.initial(), NODE, 1)
    assert np.allclose(again, first, atol=1e-6)
    assert told["batch"] == 105


@pytest.mark.slow
def test_the_largest_batch_is_bounded_by_memory(job):
    """Of the process's limit: the job trains with what was found, which is no more than its memory holds."""
    made = job('batch = "auto"\ncheckpoint_steps = 0', train="momentum = 0.0", kind="Heavy")
    made.many.group.memory = 800 << 20
    _, _, told = made.many.train(made.one.initial(), NODE, 1)
    assert 1 <= told["batch"] / 2 <= 50, "of 12 MiB a sample; weights and their copies take 300"
    assert told["batch"] < 105


@pytest.mark.parametrize(
    ("more", "near"),
    [
        ('hook = "fp16"', 1e-2),
        ('hook = "powersgd:2"', 0.3),
        ('precision = "bf16"', 0.1),
        ('precision = "fp16"', 0.1),
        ("checkpoint_activations = true", 1e-5),
    ],
)
def test_a_variant_trains_nearly_the_same(job, more, near):
    """Compressed gradients, half precision, and activations that are computed again."""
    assert 0 < job(more).distance(1) < near


def test_what_the_backend_lacks_is_refused(job):
    """With the setting in the sentence."""
    small = job('hook = "bf16"')
    with pytest.raises(InvalidJob, match="hook = 'bf16' needs NCCL"):
        small.many.train(small.one.initial(), NODE, 1)
