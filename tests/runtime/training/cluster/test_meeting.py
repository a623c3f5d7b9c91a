"""How the nodes of a group find each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from msrt.training.cluster.meeting import JOBS, Meet, Meeting


def word(turn, *, job="job", nodes=2, address="10.0.0.1", port=1):
    return Meet(job, nodes, turn, address, port)


def test_a_group_is_seated_once_all_of_it_wait():
    """Then each has another rank, all the address of the first; who asks again hears the same."""
    meeting = Meeting()
    assert meeting.meet("b", word("1", address="10.0.0.2", port=2)).generation == 0
    assert meeting.meet("b", word("1", address="10.0.0.2", port=2)).generation == 0
    first = meeting.meet("a", word("2"))
    second = meeting.meet("b", word("1", address="10.0.0.2", port=2))
    assert (first.generation, first.rank, first.address, first.port) == (1, 0, "10.0.0.1", 1)
    assert (second.generation, second.rank, second.address, second.port) == (1, 1, "10.0.0.1", 1)
    assert second.waiting == 0


def test_who_comes_again_waits_for_all_of_them():
    """The others hear that somebody waits, come again, and all are seated anew."""
    meeting = Meeting()
    meeting.meet("a", word("1"))
    meeting.meet("b", word("2"))
    assert meeting.meet("a", word("3", port=9)).generation == 0
    assert meeting.meet("b", word("2")).waiting == 1
    assert meeting.meet("b", word("4")).generation == 2
    assert meeting.meet("a", word("3", port=9)).port == 9


def test_groups_fill_one_after_the_other():
    """Of five nodes two groups of two; the fifth waits, and has the place of one that is away when it is asked for."""
    meeting = Meeting()
    said = [meeting.meet(node, word(node)) for node in "abcde"]
    assert [met.generation for met in said] == [0, 1, 0, 1, 0]
    meeting.left("b")
    assert meeting.meet("f", word("f")).generation == 1  # with e, whose group has room
    assert meeting.meet("g", word("g")).generation == 0  # b's place
    assert meeting.meet("a", word("again")).generation == 2
    assert meeting.meet("b", word("b")).generation == 0


def test_jobs_are_bounded():
    """Those that were not heard of for longest are forgotten."""
    meeting = Meeting()
    meeting.meet("a", word("1", job="first"))
    for number in range(JOBS):
        meeting.meet("a", word("1", job=f"job-{number}"))
    assert meeting.meet("b", word("2", job="first")).generation == 0


@given(st.lists(st.tuples(st.sampled_from("abcdefg"), st.integers(0, 3), st.booleans()), max_size=60))
def test_nobody_is_seated_alone(steps):
    """Whatever comes and goes: those who hear one generation of one group have its ranks once each, and one store."""
    meeting, seats = Meeting(), {}
    for node, turn, leaves in steps:
        if leaves:
            meeting.left(node)
            continue
        met = meeting.meet(node, word(f"{node}{turn}", nodes=3, address=node, port=turn))
        if met.generation:
            assert 0 <= met.rank < 3
            seats.setdefault((met.address, met.port, met.generation), {}).setdefault(met.rank, set()).add(node)
    for ranks in seats.values():
        assert all(len(nodes) == 1 for nodes in ranks.values())
