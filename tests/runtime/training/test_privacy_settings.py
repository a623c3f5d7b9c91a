from __future__ import annotations

import pytest

from msrt.errors import InvalidJob
from msrt.training.settings import JobConfig, parse_config

HEAD = 'name = "job"\ntask = "a:B"\n'
CENTRAL = '[privacy]\nmode = "central"\nclip = 1.0\nnoise = 1.0\n'


def config(text: str, top: str = 'compression = "fp32"\n') -> JobConfig:
    return parse_config(HEAD + top + text)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("clip = 1.0\nnoise = 1.0", r"\[privacy\] needs `mode`: one of central, local, sample"),
        ('mode = "global"\nclip = 1.0\nnoise = 1.0', "mode = 'global': must be one of central, local, sample"),
        ('mode = "central"\nclip = 0.0\nnoise = 1.0', r"\[privacy\] clip = 0.0: must be a number above 0"),
        ('mode = "central"\nclip = 1.0', "`noise` or `epsilon`, one of them"),
        ('mode = "central"\nclip = 1.0\nnoise = 1.0\nepsilon = 2.0', "`noise` or `epsilon`, one of them"),
        ('mode = "central"\nclip = 1.0\nnoise = 1.0\nrate = 0.1', "`rate` belongs to mode 'sample'"),
        ('mode = "sample"\nclip = 1.0\nnoise = 1.0', "`rate` belongs to mode 'sample'"),
        ('mode = "central"\nclip = 1.0\nnoise = 1.0\ndelta = 1.0', "delta = 1.0: must be a number above 0 and below 1"),
        ('mode = "central"\nclip = 1.0\nnoise = 1.0\nepsylon = 1.0', "did you mean 'epsilon'"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(said: str, why: str) -> None:
    """With the setting that is wrong."""
    with pytest.raises(InvalidJob, match=why):
        config(f"[privacy]\n{said}\n")


@pytest.mark.parametrize(
    ("top", "tail", "why"),
    [
        ("", "", "region is 'int8', it must be 'fp32'"),
        ('compression = "fp32"\n', '[pace]\nlate = "next"\n', "count twice"),
        ('compression = "fp32"\n', "[pace]\nbuffer = 3\n", "count twice"),
        ('compression = "fp32"\n', "[pace]\nsteps = 2\n", "without noise"),
    ],
)
def test_what_would_break_the_promise_is_refused(top: str, tail: str, why: str) -> None:
    """Central noise is for exact sums to which each node gives one clipped update."""
    with pytest.raises(InvalidJob, match=why):
        config(CENTRAL + tail, top)


def test_devices_may_compress_under_central_noise() -> None:
    """What they send is clipped as it is read: only a region's sum must be exact."""
    found = config(CENTRAL + '[compression]\ndevice = "int8"\nregion = "fp32"\n', "")
    assert found.links.device == "int8"


def test_all_nodes_of_a_private_job_weigh_the_same() -> None:
    """How many samples one has is not told, and moves nothing."""
    assert config(CENTRAL).heaviest == 1
    assert config("").heaviest == 10_000


def test_the_budget_is_the_epsilon_unless_another_is_said() -> None:
    """Once the noise is found, the budget stays what it was."""
    asked = config('[privacy]\nmode = "central"\nclip = 1.0\nepsilon = 3.0\n').privacy
    assert asked is not None
    assert asked.limit == asked.settled(2.5).limit == 3.0
    assert asked.settled(2.5).noise == 2.5
    free = config(CENTRAL).privacy
    assert free is not None
    assert free.settled(1.0).budget is None
