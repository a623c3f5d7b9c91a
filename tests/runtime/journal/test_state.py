"""The fold: what facts mean together."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest

from msrt.errors import FrameTooLarge, InviteSpent, InviteUnknown, MalformedFrame, Unauthorized
from msrt.journal import State, facts
from msrt.trust.api_keys import make_key
from msrt.trust.invite import hash_secret
from tests.runtime.journal.rig import device, model, rollout


def fold(*entries):
    state = State()
    for offset, entry in enumerate(entries, 1):
        state.apply(entry, offset)
    return state


def test_scopes_of_facts():
    """A device is its region's affair, invites stay in the cloud, the rest is everyone's."""
    assert device(1).scope == "eu"
    assert facts.NodeEnrolled("n", "edge", "edge-1", "eu").scope == facts.GLOBAL
    assert facts.NodeRevoked("n").scope == facts.GLOBAL
    assert facts.InviteSpent("i", "n").scope == facts.CLOUD


def test_node_views_do_not_depend_on_the_order_of_scopes():
    """Enrolment, labels and revocation give the same node in whatever order their scopes arrive."""
    entries = [
        (2, device(1, labels={"site": "a"})),
        (3, facts.NodeLabelled("node1", {"site": "b"})),
        (5, facts.NodeRevoked("node1")),
    ]
    views = []
    for order in itertools.permutations(entries):
        state = State()
        for offset, entry in order:
            state.apply(entry, offset)
        views.append((state.nodes["node1"], state.is_revoked("node1"), state.labels("node1")))
    assert all(view == views[0] for view in views)
    assert views[0][0].revoked
    assert views[0][2] == {"site": "b"}


def test_a_revoked_node_that_enrols_again_is_back():
    """A later enrolment, with a higher serial, ends a revocation; the old certificate stays void."""
    state = fold(device(1, serial=1), facts.NodeRevoked("node1", serial=1), device(1, serial=2))
    assert not state.nodes["node1"].revoked
    assert state.is_revoked("node1", serial=1)
    assert not state.is_revoked("node1", serial=2)


def test_revocation_of_a_node_of_another_region_is_known():
    """An edge that never saw the enrolment still refuses the node."""
    assert fold(facts.NodeRevoked("stranger")).is_revoked("stranger", serial=9)


def test_invites_are_spent_once():
    """The book that the fold keeps refuses a second use, and forgets what it is told to forget."""
    issued = facts.InviteIssued("i1", "device", hash_secret(b"s" * 16), 100.0, "eu")
    state = fold(issued, facts.InviteSpent("i1", "node1"))
    with pytest.raises(InviteSpent):
        state.invites.check("i1", b"s" * 16, 1.0)
    state.apply(facts.InvitesForgotten(("i1",)), 3)
    with pytest.raises(InviteUnknown):
        state.invites.check("i1", b"s" * 16, 1.0)
    assert state.facts(facts.CLOUD) == []


def test_a_key_is_in_force_until_it_is_revoked():
    """Both facts have one key: a snapshot holds the later, and the book it is folded to says the same."""
    text, key = make_key("app", "client", random.Random(1).randbytes)
    revoked = msgspec.structs.replace(key, revoked=7.0)
    made = facts.ApiKeySet(key, "ops", 1.0)
    assert made.scope == facts.GLOBAL
    assert fold(made).api_keys.find(text.encode(), 2.0) == key
    state = fold(made, facts.ApiKeySet(revoked, "ops", 7.0))
    assert len(state.facts(facts.GLOBAL)) == 1
    for one in (state, State.from_snapshot(state.snapshot())):
        with pytest.raises(Unauthorized, match="revoked"):
            one.api_keys.find(text.encode(), 8.0)


def test_versions_count_up_per_model():
    """The next version of a model is one above its highest."""
    state = fold(model(1), model(2), model(1, "other"))
    assert (state.next_version("digits"), state.next_version("other"), state.next_version("new")) == (3, 2, 1)


def test_a_job_from_creation_to_its_end():
    """Rounds move a job on, its end stays, and forgetting it leaves nothing but its name."""
    state = fold(
        facts.JobCreated("j", "d" * 64, b"s"), facts.JobAdvanced("j", 1, "w1"), facts.JobAdvanced("j", 2, "w2")
    )
    assert (state.jobs["j"].state, state.jobs["j"].round, state.jobs["j"].weights) == ("running", 2, "w2")
    state.apply(facts.JobEnded("j", "finished"), 4)
    assert state.jobs["j"].state == "finished"
    state.apply(facts.JobForgotten("j"), 5)
    assert not state.jobs
    assert state.facts(facts.GLOBAL) == [(5, facts.JobForgotten("j"))]
    assert State.from_snapshot(state.snapshot()).forgotten == {"j"}


def test_a_snapshot_is_small_and_whole():
    """Superseded facts are not in it, and folding it gives the same views and the same bytes."""
    state = fold(*[rollout(n) for n in range(1, 50)], model(1), device(1), facts.NodeRevoked("node1"))
    again = State.from_snapshot(state.snapshot())
    assert len(state.facts(facts.GLOBAL)) == 3
    assert again.snapshot() == state.snapshot()
    assert again.nodes == state.nodes
    assert again.rollouts == state.rollouts
    assert again.models == state.models


def test_replacing_a_scope_leaves_the_others():
    """A snapshot of one scope puts out what it no longer holds, and nothing else."""
    state = fold(device(1), model(1))
    other = state.replaced("eu", [(7, device(2))])
    assert set(other.nodes) == {"node2"}
    assert 1 in other.models["digits"]
    assert set(state.nodes) == {"node1"}


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        (facts.ModelPushed("m", 1, b"x" * facts.ENTRY_LIMIT, b""), FrameTooLarge),
        (facts.ModelPushed("m", 1, b"", b"", {"a": {1: 2}}), MalformedFrame),
        (facts.RolloutSet("m", "one"), MalformedFrame),
    ],
    ids=["too large", "a key that is no text", "a wrong type"],
)
def test_an_entry_no_replica_could_read_is_refused_at_the_door(entry, error):
    """What would stop every edge never gets into the journal."""
    with pytest.raises(error):
        facts.pack_entry(entry)


def test_garbage_is_no_entry():
    """Bytes of another format, and types of a newer msrt, are refused with a typed error."""
    for data in (b"", b"\xc1", b"\x81\xa1t\xa9node.flew", b"\x81\xa1t\xff"):
        with pytest.raises(MalformedFrame):
            facts.unpack_entry(data)
