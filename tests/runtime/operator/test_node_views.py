"""What `msrt node diagnose` and `msrt status` make of numbers."""

from __future__ import annotations

import pytest

from msrt.operator.node import _trust_line
from msrt.operator.node_logs import _rows

DAY = 86_400.0


@pytest.mark.parametrize(
    ("what", "value", "shown"),
    [
        ("wall", 1_796_058_000.0, "2026-11-30 17:00:00 UTC"),
        ("disk_free_bytes", 57_437_835_264, "54,777.0 MiB"),
        ("up_s", 605.2, "605 s (0:10:05)"),
        ("clock_offset_s", 0.0007548, 0.0007548),
        ("queued", 3, 3),
        ("training", True, True),
        ("updates", {"kind": "agent"}, "kind: agent"),
    ],
)
def test_numbers_of_a_diagnosis_are_written_for_people(what, value, shown):
    """Bytes, durations and times of day; everything else as it is."""
    assert list(_rows({what: value})) == [{"what": what, "value": shown}]


@pytest.mark.parametrize(
    ("left", "words"),
    [(90 * DAY, ""), (50 * DAY, "agents ends soon: msrt cloud keys request agents FILE"), (-1.0, "agents has ended")],
)
def test_a_list_that_must_be_signed_elsewhere_is_spoken_of_in_time(left, words):
    """60 days before its end, and after it."""
    trust = {"root": 1.0, "timestamp": 3.0, "left_s": 14 * DAY, "root_left_s": 700 * DAY, "unsigned_agents_s": left}
    line = _trust_line(trust)
    assert line.startswith("signs by root 1, good for 14.0 days")
    assert words in line
    assert ("[yellow]" in line) == bool(words)
