"""The last lines of jobs on a node."""

from __future__ import annotations

import pytest

from msrt.errors import CallerError, NotFound
from msrt.training.tails import ANSWER, JOBS, LINE, LINES, Tail, Tails


def filled(count):
    tail = Tail()
    for number in range(1, count + 1):
        tail.add(f"line {number}")
    return tail


def test_who_follows_gets_each_line_once():
    """By the number of the last one that is known."""
    tail = filled(5)
    assert tail.after(0, 2) == ["line 4", "line 5"]
    assert tail.after(3, 100) == ["line 4", "line 5"]
    assert tail.after(5, 100) == tail.after(99, 100) == tail.after(0, 0) == []


def test_lines_are_bounded():
    """In number, length and answer; the oldest go, and numbers go on."""
    tail = filled(LINES + 10)
    assert len(tail.after(0, 10_000)) == LINES
    assert tail.after(0, 10_000)[0] == "line 11"
    tail.add("x" * 10_000)
    assert len(tail.after(0, 1)[0]) == LINE


def test_the_jobs_that_ran_last_are_kept():
    """And each of them through the lives of its processes."""
    tails = Tails()
    for number in range(JOBS):
        tails.of(f"job-{number}").add("hello")
    tails.of("job-0")
    tails.of("another")
    assert tails.told({"job": "job-0"}) == {"lines": ["hello"], "next": 1}
    with pytest.raises(NotFound, match="job-1"):
        tails.told({"job": "job-1"})


def test_what_is_asked_is_checked():
    """It comes from elsewhere."""
    tails = Tails()
    tail = tails.of("job")
    for number in range(LINES):
        tail.add(str(number))
    assert len(tails.told({"job": "job", "lines": 10_000})["lines"]) == ANSWER
    assert tails.told({"job": "job", "lines": -3})["lines"] == []
    for wrong in ({}, {"job": 3}, {"job": "job", "after": "x"}, {"job": "job", "lines": None}):
        with pytest.raises(CallerError):
            tails.told(wrong)
