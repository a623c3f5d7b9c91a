"""What [cluster] refuses when a job is read."""

from __future__ import annotations

import pytest

from msrt.errors import InvalidJob
from msrt.training.settings import parse_config


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ('strategy = "fsdp"\nhook = "fp16"', "hook = 'fp16' is of strategy 'ddp', not 'fsdp'"),
        ('strategy = "tensor"\nbatch = "auto"', "batch = 'auto' is of strategy 'ddp'"),
        ('strategy = "pipeline"\nprecision = "fp16"', "scales the loss under 'ddp' only"),
        ("tensor = 2", "tensor = 2 is of strategy 'tensor', not 'ddp'"),
        ('strategy = "tensor"\nprocesses = 5\ntensor = 2', "5 processes are no multiple of tensor = 2"),
        ('strategy = "pipeline"\ncheckpoint_activations = true', "no checkpoint_activations"),
        ('hook = "powersgd:0"', "hook"),
        ('nodes = 2\nbatch = "auto"', "tried on one node"),
        ('shared = "/mnt/all"', "shared is for several nodes"),
        ("proceses = 2", "did you mean 'processes'"),
    ],
)
def test_what_cannot_be_is_refused(more, why):
    """With the settings in the sentence."""
    with pytest.raises(InvalidJob, match=why.replace("[", "\\[")):
        parse_config(f'name = "a"\ntask = "a:A"\n[cluster]\n{more}\n')


def test_a_group_pushes_no_gradients():
    """The table of combinations knows it."""
    with pytest.raises(InvalidJob, match="a group trains whole rounds"):
        parse_config('name = "a"\ntask = "a:A"\ncompression = "fp32"\n[cluster]\n[parameter_server]\nsteps = 1\n')
