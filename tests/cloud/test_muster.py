"""Whom a training round waits for before it opens."""

from __future__ import annotations

from msrt.journal import facts
from msrt.journal.state import State
from msrt_cloud.muster import Muster, muster

NAMES = {"e1": "edge", "e2": "edge", "d1": "device", "d2": "device", "d3": "device", "o": "operator"}


def journal(*more):
    """Two edges, three devices, an operator and a job."""
    state = State()
    nodes = (
        facts.NodeEnrolled(node, role, node, "north", {"site": "b" if node == "d3" else "a"})
        for node, role in NAMES.items()
    )
    for offset, fact in enumerate([*nodes, facts.JobCreated("job", "0" * 64, b""), *more], 1):
        state.apply(fact, offset)
    return state


def expected(*more, select=""):
    state = journal(*more)
    return muster(state, state.jobs["job"], Muster(1, "", 10.0, select))


def test_everybody_is_waited_for_until_the_grace_is_over():
    """An edge that is away, or a device that is not back, holds the round; time ends it."""
    whole = Muster(1, "", 10.0, "", frozenset({"e1", "e2"}), frozenset({"d1", "d2"}))
    assert whole.missing({"e1"}, {"d1"}, 1, 9.0) == "waiting for 1 edge and 1 device to come back"
    assert whole.missing({"e1", "e2"}, {"d1", "other"}, 2, 9.0) == "waiting for 1 device to come back"
    assert not whole.missing({"e1", "e2"}, {"d1", "d2"}, 2, 0.0)
    assert not whole.missing({"e1"}, {"d1"}, 1, 10.0)


def test_the_least_is_waited_for_without_end():
    """A job's min_nodes has nothing to do with the grace; it is named, for who would change it."""
    said = Muster(2, "min_nodes = 2", 10.0).missing({"e1"}, {"d1"}, 1, 99.0)
    assert said == "waiting for 2 devices, 1 are here (min_nodes = 2)"
    assert not Muster(2, "min_nodes = 2", 0.0).missing((), {"d1", "d2"}, 2, 0.0)


def test_before_the_first_checkpoint_all_enrolled_are_expected():
    """The journal does not say who took part yet."""
    due = expected()
    assert due.edges == {"e1", "e2"}
    assert due.devices == {"d1", "d2", "d3"}


def test_after_a_checkpoint_those_in_it_are_expected():
    """A device that is enrolled and long gone holds nobody up."""
    due = expected(facts.JobAdvanced("job", 1, "0" * 64, {}, ("d1", "d3")))
    assert due.devices == {"d1", "d3"}
    assert due.edges == {"e1", "e2"}


def test_who_was_removed_is_not_expected():
    """Neither an edge nor a device, though it took part."""
    checkpoint = facts.JobAdvanced("job", 1, "0" * 64, {}, ("d1", "d2"))
    due = expected(checkpoint, facts.NodeRevoked("d1"), facts.NodeRevoked("e2"))
    assert due.devices == {"d2"}
    assert due.edges == {"e1"}


def test_a_selector_names_who_is_expected():
    """By the labels in force now; what only a device itself knows, its class, is not asked."""
    assert expected(select="site=b").devices == {"d3"}
    assert expected(facts.NodeLabelled("d1", {"site": "b"}), select="site=b,class=arm64").devices == {"d1", "d3"}


def test_here_and_able_are_two_things():
    """Devices whose privacy budget is spent came back as well, and open no round."""
    due = Muster(2, "", 10.0, "", frozenset(), frozenset({"d1", "d2"}))
    assert "waiting for 2 devices, 1 are here" in due.missing((), {"d1", "d2"}, 1, 99.0)
    assert not due.missing((), {"d1", "d2"}, 2, 0.0)


def test_who_waits_for_a_label_is_told_which():
    """A selector that nobody fits is seen in the reason."""
    said = Muster(1, "", 10.0, "site=mars").missing({"e1"}, (), 0, 99.0)
    assert said == "waiting for 1 device with site=mars, 0 are here"
