from __future__ import annotations

import pytest

from msrt.errors import Forbidden
from msrt.protocol import messages as m
from msrt.trust import Role, allowed, check_call, check_message
from msrt.trust.roles import CALLS, MESSAGES


@pytest.mark.parametrize(
    ("role", "method"),
    [
        ("operator", "model.push"), ("operator", "invite.create"), ("operator", "status"),
        ("operator", "events.follow"),
        ("edge", "artifact.get"), ("edge", "edges"), ("device", "artifact.get"), ("client", "infer"),
        ("cloud", "node.logs"),
    ],
)  # fmt: skip
def test_what_a_role_may_call(role, method):
    """Each role can do its work."""
    assert allowed(role, method)


@pytest.mark.parametrize(
    ("role", "method"),
    [
        ("device", "model.push"), ("device", "invite.create"), ("client", "model.push"), ("client", "status"),
        ("edge", "invite.create"), ("edge", "model.rollout"), ("edge", "node.logs"), ("edge", "node.diagnose"),
        ("emperor", "ping"), ("", "infer"),
        ("operator", "enrol"), ("operator", "modelx.push"), ("operator", "*"), ("client", ""),
    ],
)  # fmt: skip
def test_what_a_role_may_not_call(role, method):
    """What is not in the table is refused, and an unknown role may nothing."""
    assert not allowed(role, method)
    with pytest.raises(Forbidden):
        check_call(role, method)


def test_a_refusal_names_who_may():
    """The error says with which invite to log in."""
    with pytest.raises(Forbidden, match="operator invite: msrt login"):
        check_call("device", "model.push")


def test_each_role_stands_in_both_tables():
    """No role is forgotten, none is invented."""
    assert set(CALLS) == set(MESSAGES) == set(Role)


def test_messages_are_checked_by_sender():
    """A device reports and does not assign; a client asks and posts no events."""
    event = m.Event(
        node="n", seq=1, name="cam", source="s", model="m", version=1, wall=0.0, data={},
    )  # fmt: skip
    check_message("device", event)
    check_message("edge", m.Assign(generation=1, models=()))
    for role, message in (("device", m.Assign(generation=1, models=())), ("client", event), ("emperor", m.Bye())):
        with pytest.raises(Forbidden):
            check_message(role, message)
