"""What job.toml says is wrong with it."""

from __future__ import annotations

import pytest

from msrt.errors import InvalidJob
from msrt.training.settings import parse_config
from msrt.training.settings.base import CODECS

HEAD = 'name = "a"\ntask = "task:A"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "a"', "job.toml: needs `task`: MODULE:CLASS (as task:Digits), the module a file of the job's folder"),
        (HEAD + "rounds = 0", "job.toml: rounds = 0: must be a whole number of at least 1"),
        (HEAD + 'deadline_s = "60"', "job.toml: deadline_s = '60': must be a number above 0"),
        (HEAD + "quorum = 2", "job.toml: quorum = 2: must be a number above 0 and of at most 1"),
        (HEAD + "[train]\nlr = -1", "job.toml: [train] lr = -1: must be a number above 0"),
        (HEAD + "[train]\nlr = inf", "job.toml: [train] lr = inf: must be a finite number"),
        (HEAD + "train = 3", "job.toml: train = 3: must be a table"),
        (HEAD + '[train]\nkeep_local = "head.*"', "job.toml: [train] keep_local = 'head.*': must be a list of texts"),
        (HEAD + "[train]\nkeep_local = [3]", "job.toml: [train] keep_local = 3: must be a text"),
        (HEAD + "[pace]\npartial = 1", "job.toml: [pace] partial = 1: must be true or false"),
        (
            HEAD + '[train]\nalgorithm = "scafold"',
            "job.toml: [train] algorithm = 'scafold': must be one of fedavg, scaffold; did you mean 'scaffold'?",
        ),
        (HEAD + "[secure]\nbits = 8", "job.toml: [secure] bits = 8: must be one of 16, 32"),
        (
            HEAD + 'compression = "int4"',
            f"job.toml: compression = 'int4': must be a table or {CODECS}",
        ),
        (HEAD + "[server]\nmomentum = 0.9", "job.toml: [server] momentum says nothing to sgd"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_what_would(text: str, said: str) -> None:
    """Where it stands, what it is, what may stand there: no pattern, no path of a parser."""
    with pytest.raises(InvalidJob) as refused:
        parse_config(text)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('select = "site"', "select: label 'site' has no '='"),
        ('[publish]\nmodel = "A B"', r"\[publish\] model: model name 'A B' is malformed"),
        ('[publish]\nmodel = "a"\nto = "!"', r"\[publish\] to: label '!' has no '='"),
        ('[trigger]\nevents = 1\nmodel = "A B"', r"\[trigger\] model: model name 'A B' is malformed"),
    ],
)
def test_a_name_that_none_can_have_is_refused_before_anybody_trains(text: str, said: str) -> None:
    """Not when the job begins, and not when it is over and its model to be published."""
    with pytest.raises(InvalidJob, match=said):
        parse_config(HEAD + text)


def test_options_are_the_task_s_own_business() -> None:
    """Infinity among them too."""
    assert parse_config(HEAD + "[options]\nbound = inf\n").options == {"bound": float("inf")}
