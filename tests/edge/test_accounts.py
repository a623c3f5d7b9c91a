"""Who may log in at the broker."""

from __future__ import annotations

from msrt_edge.accounts import GRACE_S, Accounts


def test_a_spent_invite_may_hear_its_answer():
    """Its account outlives the journal's by a minute: the certificate is on its way to it."""
    accounts = Accounts()
    accounts.changed({"invite-1": "a", "node": "b"}, 0.0)
    assert accounts.changed({"node": "b", "new": "c"}, 1.0) == {"invite-1": "a", "node": "b", "new": "c"}
    assert accounts.expired(GRACE_S) is None
    assert accounts.expired(GRACE_S + 1.0) == {"node": "b", "new": "c"}
    assert accounts.expired(GRACE_S + 2.0) is None


def test_a_removed_node_is_out_at_once():
    """Only invites linger."""
    accounts = Accounts()
    accounts.changed({"node": "b"}, 0.0)
    assert accounts.changed({}, 1.0) == {}


def test_an_invite_that_comes_back_is_the_journals_again():
    """Its own line is in force, and no time ends it."""
    accounts = Accounts()
    accounts.changed({"invite-1": "a"}, 0.0)
    accounts.changed({}, 1.0)
    assert accounts.changed({"invite-1": "z"}, 2.0) == {"invite-1": "z"}
    assert accounts.expired(1000.0) is None
