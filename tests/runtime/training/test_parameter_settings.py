"""[parameter_server] of job.toml."""

from __future__ import annotations

import pytest

from msrt.errors import InvalidJob
from msrt.training.settings import parse_config

HEAD = 'name = "toy"\ntask = "task:Toy"\n'


def settings(text: str, **more: str):
    lines = "".join(f'{key} = "{value}"\n' for key, value in more.items())
    return parse_config(f"{HEAD}{lines}[parameter_server]\n{text}").parameter_server


@pytest.mark.parametrize("text", ["", "steps = 3\nepochs = 1.0", "steps = 0"])
def test_a_round_is_so_many_steps_or_epochs(text):
    """One of the two, and not both."""
    with pytest.raises(InvalidJob, match="one of the two"):
        settings(text)


def test_only_who_does_not_wait_computes_ahead():
    """A barrier, of sync or of ssp with no staleness, leaves nothing to do meanwhile."""
    assert settings("steps = 1").ahead == 0
    assert settings("steps = 1\nmode = 'ssp'\nstaleness = 0").ahead == 0
    assert settings("steps = 1\nmode = 'ssp'").ahead == 1
    assert settings("steps = 1\nmode = 'async'\nprefetch = false").ahead == 0


@pytest.mark.parametrize(
    ("compression", "why"),
    [("powersgd:2", "whole matrices"), ("fp32", None)],
)
def test_what_a_range_cannot_be_sent_as_is_refused(compression, why):
    """With the reason."""
    if why is None:
        assert settings("steps = 1", compression=compression)
        return
    with pytest.raises(InvalidJob, match=why):
        settings("steps = 1", compression=compression)


def test_weights_travel_as_they_are_or_rounded():
    """A server remembers nothing of what it gave to whom."""
    with pytest.raises(InvalidJob, match="set compression"):
        parse_config(f'{HEAD}compression = {{down = "int8"}}\n[parameter_server]\nsteps = 1')
