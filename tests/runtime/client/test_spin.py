"""Waiting awake, for as long as it pays."""

from __future__ import annotations

from collections import deque
from typing import Any, cast

import pytest

import msrt
from msrt import errors
from msrt.client.spin import REST, Spin

MOST_S = 0.002


class Turns:
    """A loop whose turns are counted; each takes a millisecond."""

    def __init__(self) -> None:
        self.now, self.ready = 0.0, deque[Any]()
        self.owed = 0
        self.spin = Spin(cast("Any", self), lambda: self.owed > 0, MOST_S)

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Any) -> None:
        self.ready.append(call)

    def ask(self, answered_after: int) -> int:
        """One request, answered after so many turns; in how many of them the loop was awake."""
        self.owed, awake = 1, 0
        self.spin.asked()
        for turn in range(answered_after + 2):
            self.owed = int(turn < answered_after)
            awake += bool(self.ready)
            for _ in range(len(self.ready)):
                self.ready.popleft()()
            self.now += 0.001
        assert not self.ready
        return awake


def test_the_loop_stays_awake_until_the_answer_is_there_and_no_longer():
    """One turn more, to see that nobody waits."""
    turns = Turns()
    assert [turns.ask(answered_after=1) for _ in range(5)] == [2] * 5


def test_an_answer_that_takes_longer_is_waited_for_asleep():
    """From the bound on, and from the start for the next one, the next two, four ..."""
    turns = Turns()
    awake = [turns.ask(answered_after=50) for _ in range(1 + 1 + 1 + 2 + 1 + 4 + 1)]
    assert [index for index, seen in enumerate(awake) if seen] == [0, 2, 5, 10]
    assert max(awake) == MOST_S * 1000 + 1


def test_it_is_tried_again_and_again():
    """A slow hour ends: after some rest the quick answer is found awake, and so is the next one."""
    turns = Turns()
    for _ in range(4 * REST):
        turns.ask(answered_after=10)
    awake = [turns.ask(answered_after=1) for _ in range(REST + 2)]
    assert awake[-2:] == [2, 2]


@pytest.mark.parametrize("spin_s", [-0.1, 2.0, float("nan")])
def test_a_bound_that_is_none_is_refused(spin_s):
    """At once, with the hint of what it may be."""
    with pytest.raises(errors.CallerError, match="spin_s"):
        msrt.AsyncClient("http://127.0.0.1:1", spin_s=spin_s)
