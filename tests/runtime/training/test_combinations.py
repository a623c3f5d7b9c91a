from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import msrt.training
from msrt.errors import InvalidJob
from msrt.training.settings import JobConfig, parse_config
from msrt.training.settings.combinations import FEATURES, IMPOSSIBLE, table

HEAD = 'name = "toy"\ntask = "task:Toy"\n'
SPELT = {
    "`aggregate.rule` but mean": 'aggregate.rule = "krum:1"',
    "`aggregate.rule` median, trimmed or bulyan": 'aggregate.rule = "median"',
    "`compression.device = topk`": 'compression.device = "topk:0.01"',
    "`pace.buffer`": "pace.buffer = 3",
    '`pace.late = "next"`': 'pace.late = "next"',
    "`pace.steps` above 1": "pace.steps = 2",
    "`[parameter_server]`": "parameter_server.steps = 5",
    "`[pace]`": "pace.deviations = 2.0",
    "`[aggregate]`": "aggregate.clip = 3.0",
    "`train.proximal`": "train.proximal = 0.1",
    "`train.within_s`": "train.within_s = 2.0",
    '`privacy.mode = "central"`': 'privacy = {mode = "central", clip = 1.0, noise = 1.0}\ncompression = "fp32"',
    "`[privacy]`": 'privacy = {mode = "local", clip = 1.0, noise = 1.0}',
    "`train.clip`": "train.clip = 1.0",
    '`privacy.mode = "sample"`': 'privacy = {mode = "sample", clip = 1.0, noise = 1.0, rate = 0.1}',
    "`[cluster]`": "cluster.processes = 2",
    "`cluster.nodes` above 1": "cluster.nodes = 2",
    "`pace.partial`": "pace.partial = true",
    "`aggregate.clip`": "aggregate.clip = 1.0",
    '`train.algorithm = "scaffold"`': 'train.algorithm = "scaffold"\ntrain.momentum = 0',
    "`train.keep_local`": 'train.keep_local = ["head.*"]',
    '`sampling.strategy = "utility"`': 'sampling.strategy = "utility"',
    "`[sampling]` of a part": "sampling.share = 0.5",
    "a codec that leaves out": 'compression = "topk:.01"',
    "`[publish]`": 'publish.model = "net"',
    "`compression.device` sign, topk or powersgd": 'compression.device = "topk:0.01"',
    "`[secure]`": "secure.clip = 5.0",
}
"""How a job.toml has each feature, and nothing else."""


@pytest.mark.parametrize("feature", FEATURES)
def test_a_job_has_what_it_spells_and_nothing_else(feature: str) -> None:
    """Each feature alone is a job; a plain one has none of them."""
    has: Callable[[JobConfig], bool] = FEATURES[feature]
    assert has(parse_config(HEAD + SPELT[feature]))
    assert not has(parse_config(HEAD))


@pytest.mark.parametrize(("one", "other", "why"), IMPOSSIBLE)
def test_an_impossible_pair_is_refused_with_its_reason(one: str, other: str, why: str) -> None:
    """When it is submitted: both the command and the cloud read job.toml this way."""
    with pytest.raises(InvalidJob) as caught:
        parse_config(f"{HEAD}{SPELT[one]}\n{SPELT[other]}\n")
    assert all(word in caught.value.text for word in (one, other, why))


def test_the_readme_shows_the_table() -> None:
    """As the code has it."""
    assert table() in Path(msrt.training.__path__[0], "README.md").read_text()
