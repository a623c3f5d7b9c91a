"""A node's last lines, asked for from afar."""

from __future__ import annotations

import pytest

from msrt.errors import CallerError
from msrt.telemetry.tailing import ANSWER, log_answer


class Log:
    """A node's log in one run of its process."""

    def __init__(self, run="1"):
        self.lines, self.run = [], run

    def __call__(self, what):
        return (len(self.lines), self.run) if what == "logged" else self.lines[-2000:]


def test_who_follows_gets_each_line_once():
    """Also when the process began anew, and counts from its beginning."""
    log, got, asked = Log(), [], {"lines": 500, "after": 0, "run": ""}
    for run in "12":
        log = Log(run)
        for number in range(3):
            log.lines += [f"{run}.{number}.{part}" for part in "ab"]
            found = log_answer(log, asked)
            got += found["lines"]
            asked = {"lines": 500, "after": found["next"], "run": found["run"]}
    assert got == [f"{run}.{number}.{part}" for run in "12" for number in range(3) for part in "ab"]


def test_without_a_number_it_is_the_last_so_many_lines():
    """As callers of the version before ask."""
    log = Log()
    log.lines = ["one", "two", "three"]
    assert log_answer(log, {"lines": 2}) == ["two", "three"]
    assert log_answer(lambda _what: [], {}) == []


def test_an_answer_fits_every_link():
    """However long the lines are: the newest that fit."""
    log = Log()
    log.lines = [f"{number} " + "x" * 5000 for number in range(500)]
    found = log_answer(log, {"lines": 500})
    assert sum(map(len, found)) <= ANSWER
    assert found[-1].startswith("499 ")


@pytest.mark.parametrize("params", [{"lines": "all"}, {"after": "start"}])
def test_what_is_no_number_is_refused(params):
    """With a typed error."""
    with pytest.raises(CallerError):
        log_answer(Log(), params)
