"""When a round stops waiting, and when a straggler should stop working for that."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from msrt.learning.pacing import Durations, Pace, allowance, left_to_work, patient

SECONDS = st.floats(0.01, 1e4)


@given(SECONDS, st.none() | SECONDS)
def test_who_stops_at_the_allowance_is_waited_for(window, usual):
    """However quick the others were."""
    work_s = allowance(window, usual)
    pace = Pace(0.0, window, 1, usual=usual, least=patient(work_s))
    assert work_s < patient(work_s) <= pace.until(0.0) + 1e-6


def test_who_is_usual_does_all_its_work():
    """A straggler alone stops early."""
    assert allowance(100.0, 3.0) == 3.0
    assert allowance(100.0, None) == 50.0


def test_a_share_of_the_work_counts_as_the_time_of_all_of_it():
    """Else the nodes that stop at the allowance would make the next one shorter."""
    seen = Durations(4.0)
    for _ in range(8):
        seen.add(2.0, work=0.25)
    assert seen.usual == 8.0


def test_who_began_late_still_does_something():
    """A process that has to be started, or weights that come slowly, take no more than three quarters of the time."""
    assert left_to_work(8.0, 1.0) == 7.0
    assert left_to_work(8.0, 7.5) == left_to_work(8.0, 60.0) == 2.0
    assert left_to_work(0.0, 3.0) == 0.0
