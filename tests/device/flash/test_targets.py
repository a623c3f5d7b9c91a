"""The table of boards."""

from __future__ import annotations

import pytest

from msrt.errors import NotFound
from msrt_device.flash.targets import TARGETS, load_target, targets


def test_every_target_in_the_table_loads_and_says_what_was_verified():
    """Under the name that it is listed by."""
    for name, target in zip(TARGETS, targets(), strict=True):
        assert target.name == name
        assert target.title
        assert target.verified.endswith(".")
        assert all(isinstance(need, str) for need in target.needs())
        assert all(meaning for meaning in target.options.values())


@pytest.mark.parametrize("name", ["cortex-m", "micropython"])
def test_a_microcontroller_says_what_does_not_come_over_the_air(name):
    """Its models do, its firmware does not."""
    assert "models come over the air, another firmware does not" in load_target(name).title


def test_an_unknown_target_is_refused():
    """By its name."""
    with pytest.raises(NotFound, match="no-such-board"):
        load_target("no-such-board")
