"""[secure] of job.toml."""

from __future__ import annotations

import pytest

from msrt.errors import InvalidJob
from msrt.protocol.messages import SecurePlan
from msrt.training.settings import parse_config

HEAD = 'name = "toy"\ntask = "task:Toy"\n'


def test_a_job_is_masked_where_the_table_is() -> None:
    """Empty is enough; without it edges see updates."""
    assert parse_config(HEAD).secure is None
    secure = parse_config(f"{HEAD}[secure]\n").secure
    assert secure is not None
    assert secure.plan(0) == SecurePlan(10.0)


def test_what_it_says_is_what_devices_are_told() -> None:
    """Each setting, and how often the round was opened before."""
    text = "[secure]\nclip = 2.5\nspan = 0.1\nbits = 16\nthreshold = 0.7\ndropouts = 0.1\nneighbours = 12\n"
    secure = parse_config(HEAD + text).secure
    assert secure is not None
    assert secure.plan(2) == SecurePlan(2.5, 0.1, 16, 0.7, 0.1, 12, opening=2)


@pytest.mark.parametrize(
    "wrong",
    ["clip = 0.0", "span = -1.0", "bits = 8", "threshold = 1.5", "dropouts = 0.5", "neighbours = 257", "masks = 3"],
)
def test_what_cannot_be_is_refused(wrong: str) -> None:
    """With the table and the key in the words."""
    with pytest.raises(InvalidJob, match="secure"):
        parse_config(f"{HEAD}[secure]\n{wrong}\n")
