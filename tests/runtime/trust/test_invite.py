from __future__ import annotations

import itertools
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt.errors import (
    CallerError,
    InvalidAddress,
    InviteExpired,
    InviteForged,
    InviteSpent,
    InviteUnknown,
)
from msrt.protocol.messages import Parent
from msrt.trust import Identity, Invite, InviteBook

CLOUD = Identity(b"c" * 32, b"d" * 32)
PARENT = Parent(node=CLOUD.node, link_key=CLOUD.link_public, zmq="tcp://127.0.0.1:7000")


def make(**changes) -> Invite:
    fields = {"role": "device", "parents": (PARENT,), "expires": 100.0, "region": "eu", "labels": {"site": "north"}}
    return Invite.make(CLOUD, random.Random(3).randbytes, **fields | changes)


def test_an_invite_is_one_word_and_reads_back():
    """The string survives a shell unquoted and holds everything."""
    text = make().encode()
    assert text.startswith("msrt1-")
    assert text.replace("-", "").replace("_", "").isalnum()
    assert Invite.parse(text, 99.0) == make()


def test_space_around_it_is_forgiven():
    """A copied line may end in a newline."""
    assert Invite.parse(f"  {make().encode()}\n", 0.0) == make()


def test_every_flipped_bit_is_forged():
    """No bit of the string can be changed, not even the spare bits of its last character."""
    text = make().encode().encode()
    for at, bit in itertools.product(range(len(text)), range(8)):
        damaged = bytearray(text)
        damaged[at] ^= 1 << bit
        with pytest.raises(InviteForged):
            Invite.parse(damaged.decode("latin-1"), 0.0)


def test_every_truncation_is_forged():
    """Half a string is no invite."""
    text = make().encode()
    for size in range(len(text)):
        with pytest.raises(InviteForged):
            Invite.parse(text[:size], 0.0)


@given(st.text(max_size=300))
def test_any_text_is_forged(text):
    """Whatever is pasted instead gets the one typed error."""
    with pytest.raises(InviteForged, match="copy the whole string"):
        Invite.parse(text, 0.0)
    with pytest.raises(InviteForged):
        Invite.parse("msrt1-" + text, 0.0)


def test_another_key_cannot_sign_for_the_cloud():
    """Swapping the cloud's key in the string breaks its signature."""
    mallory = Identity.generate(os.urandom)
    forged = make()
    text = Invite(**{name: getattr(forged, name) for name in forged.__struct_fields__} | {
        "cloud_identity": mallory.public,
    }).encode()  # fmt: skip
    with pytest.raises(InviteForged):
        Invite.parse(text, 0.0)


def test_an_expired_invite_says_so():
    """At its second and after it, not before."""
    Invite.parse(make().encode(), 99.999)
    with pytest.raises(InviteExpired, match="msrt invite"):
        Invite.parse(make().encode(), 100.0)


def test_the_secret_is_not_shown():
    """The repr, and so a log, names the invite but not what opens the door."""
    assert make().id in repr(make())
    assert repr(make().secret)[2:-1] not in repr(make())


@pytest.mark.parametrize("role", ["cloud", "emperor", ""])
def test_only_some_roles_are_invited(role):
    """Nobody is invited as a cloud."""
    with pytest.raises(CallerError, match="edge, device, client or operator"):
        make(role=role)


@pytest.mark.parametrize(
    "changes", [{"role": "edge", "region": ""}, {"region": "E U"}, {"labels": {"a b": "c"}}, {"labels": {"a": ""}}]
)
def test_an_invite_names_things_that_can_be_named(changes):
    """A bad region or label is found when the invite is made, not when it is spent."""
    with pytest.raises(InvalidAddress):
        make(**changes)


def test_the_cloud_keeps_no_secret():
    """The record has a hash and not the secret."""
    record = make().record
    assert make().secret not in (record.secret_hash, record.id.encode())
    assert len(record.secret_hash) == 32


def test_the_book_opens_once():
    """One node is let in; it may ask again, nobody else may."""
    invite = make()
    book = InviteBook([invite.record])
    assert book.check(invite.id, invite.secret, 0.0, "node-a").region == "eu"
    book.spent(invite.id, "node-a")
    assert book.check(invite.id, invite.secret, 0.0, "node-a").labels == {"site": "north"}
    for other in ("node-b", ""):
        with pytest.raises(InviteSpent):
            book.check(invite.id, invite.secret, 0.0, other)


def test_a_lost_answer_may_be_asked_for_after_the_expiry():
    """The node that spent it in time is not shut out by the clock."""
    invite = make()
    book = InviteBook([invite.record])
    book.spent(invite.id, "node-a")
    book.check(invite.id, invite.secret, 1000.0, "node-a")
    with pytest.raises(InviteSpent):
        book.check(invite.id, invite.secret, 1000.0, "node-b")


def test_the_book_refuses_what_it_never_wrote():
    """An unknown id, a wrong secret and an expired one are told apart."""
    invite = make()
    book = InviteBook()
    with pytest.raises(InviteUnknown):
        book.check(invite.id, invite.secret, 0.0)
    book.issued(invite.record)
    with pytest.raises(InviteForged):
        book.check(invite.id, bytes(16), 0.0)
    with pytest.raises(InviteForged):
        book.check(invite.id, b"", 0.0)
    with pytest.raises(InviteExpired):
        book.check(invite.id, invite.secret, 100.0)


def test_a_wrong_secret_learns_nothing():
    """Who has only the id cannot find out whether the invite was spent."""
    invite = make()
    book = InviteBook([invite.record])
    book.spent(invite.id, "node-a")
    with pytest.raises(InviteForged):
        book.check(invite.id, bytes(16), 0.0, "node-a")


def test_old_invites_are_forgotten_late():
    """A book does not grow for ever, yet the holder of a lapsed invite hears for a while why it fails."""
    book = InviteBook([make().record])
    assert book.prune(101.0) == []
    assert book.prune(100.0 + 31 * 86400.0) == [make().id]
    assert not book.records
