from __future__ import annotations

import pytest

from msrt.errors import InvalidJob
from msrt.learning.optimise import Recipe
from msrt.training.settings import ServerSettings, parse_config

HEAD = 'name = "toy"\ntask = "task:Toy"\n[server]\n'


def _server(text: str) -> ServerSettings:
    return parse_config(HEAD + text).server


def test_a_job_that_says_nothing_takes_the_mean_as_it_is() -> None:
    """Federated averaging."""
    assert (_server("").recipe.kind, _server("").rate(0, 20)) == ("sgd", 1.0)


def test_what_is_left_out_is_what_the_papers_use() -> None:
    """Adagrad without momentum, a small rate for all that adapt."""
    assert _server('optimiser = "adam"').recipe == Recipe("adam")
    assert _server('optimiser = "adagrad"').recipe.beta1 == 0.0
    assert _server('optimiser = "yogi"').rate(0, 20) == 0.01
    assert _server('optimiser = "momentum"\nmomentum = 0.5\nnesterov = true').recipe == Recipe("momentum", 0.5, True)


def test_the_rate_follows_its_schedule() -> None:
    """Warm-up first, then the wave."""
    server = _server('lr = 2.0\nschedule = "step:5:0.1"\nwarmup = 1')
    assert [server.rate(done, 20) for done in (0, 1, 5, 6)] == pytest.approx([1.0, 2.0, 2.0, 0.2])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("momentum = 0.9", "momentum says nothing to sgd"),
        ('optimiser = "momentum"\nbeta1 = 0.9', "beta1 says nothing to momentum"),
        ('optimiser = "adagrad"\nbeta2 = 0.9', "beta2 says nothing to adagrad"),
        ('optimiser = "adam"\nnesterov = true', "nesterov says nothing to adam"),
        ('optimiser = "lion"', "optimiser"),
        ('schedule = "linear"', "schedule"),
        ("lr = 0.0", "lr"),
        ('optimizer = "adam"', "did you mean 'optimiser'"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(text: str, why: str) -> None:
    """With its name."""
    with pytest.raises(InvalidJob, match=why):
        _server(text)
