"""API keys: what is kept of them, who is let in, and how fast."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt.errors import CallerError, Unauthorized
from msrt.trust.api_keys import Bucket, KeyBook, make_key
from msrt.trust.roles import RIGHTS, Right, Role

DRAW = random.Random(7).randbytes


def made(name="app", role="client", **more):
    text, key = make_key(name, role, DRAW, **more)
    return text, key, KeyBook([key])


def test_a_key_is_found_by_its_holder():
    """The text that was printed leads to the record, at any time."""
    text, key, book = made()
    assert book.find(text.encode(), 1e12) is key


def test_the_secret_is_not_in_the_record():
    """Nothing of the record but the public id is in the key's text, and the hash is none of a part of it."""
    text, key, _ = made()
    kept = msgspec.msgpack.encode(key)
    assert text.split("_", 2)[2].encode() not in kept
    assert text.encode() not in kept
    assert key.id.encode() in kept
    assert len(key.hash) == 32


def test_two_keys_differ():
    """In what is public and in what is not."""
    (one, first), (two, second) = make_key("a", "client", DRAW), make_key("a", "client", DRAW)
    assert one != two
    assert first.id != second.id


@given(st.binary(max_size=100), st.integers(0, 70))
def test_anything_else_is_refused_by_one_sentence(junk, at):
    """Random bytes, a key with bytes put into it, a key cut short: nothing tells how near it was."""
    text, _, book = made()
    whole = text.encode()
    for wrong in (junk, whole[:at] + junk + whole[at:], whole[:at], whole + junk):
        if wrong != whole:
            with pytest.raises(Unauthorized, match="not known here"):
                book.find(wrong, 0.0)


def test_an_expired_key_is_told_so():
    """From the very second on; before, it opens."""
    text, _, book = made(expires=100.0, wall=1.0)
    assert book.find(text.encode(), 99.9).state(99.9) == "active"
    with pytest.raises(Unauthorized, match="'app' has expired"):
        book.find(text.encode(), 100.0)


def test_a_revoked_key_is_told_so():
    """Its holder hears why; somebody who knows but the public id does not."""
    text, key, book = made()
    book.put(msgspec.structs.replace(key, revoked=5.0))
    with pytest.raises(Unauthorized, match="'app' was revoked"):
        book.find(text.encode(), 6.0)
    with pytest.raises(Unauthorized, match="not known"):
        book.find(text.encode()[:-1] + b"!", 6.0)
    assert book.by_name["app"].state(6.0) == "revoked"


def test_a_name_may_be_given_again():
    """The newer key of a name replaces the older one, which is then unknown."""
    old, _, book = made()
    new, key = make_key("app", "operator", DRAW)
    book.put(key)
    assert book.find(new.encode(), 0.0).role == "operator"
    with pytest.raises(Unauthorized):
        book.find(old.encode(), 0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"role": "edge"}, {"role": ""}, {"name": ""}, {"name": "a\nb"}, {"name": " a"}, {"name": "x" * 65},
        {"rate": -1.0}, {"rate": math.nan}, {"rate": math.inf}, {"expires": 5.0, "wall": 5.0}, {"expires": math.inf},
    ],
)  # fmt: skip
def test_what_no_key_can_be(wrong):
    """Each is refused before anything is drawn."""
    with pytest.raises(CallerError):
        make_key(**{"name": "app", "role": "client", **wrong}, random_bytes=lambda _size: pytest.fail("drawn"))


def test_an_operator_has_every_right_and_a_client_may_not_manage():
    """The front lets a caller on loopback through without a look at the table: it must say so."""
    assert RIGHTS[Role.OPERATOR] == set(Right)
    assert RIGHTS[Role.CLIENT] == {Right.ASK, Right.LOOK}


def test_a_bucket_gives_its_rate_and_a_burst():
    """One second's worth at once, then one each 1/rate; whoever is told to wait so long gets in then."""
    bucket = Bucket(10.0, 0.0)
    assert [bucket.take(0.0) for _ in range(10)] == [0.0] * 10
    assert bucket.take(0.0) == pytest.approx(0.1)
    assert bucket.take(0.05) == pytest.approx(0.05)
    assert bucket.take(0.1) == 0.0


def test_a_slow_bucket_holds_one_token():
    """Below one a second, too, somebody gets in."""
    bucket = Bucket(0.5, 0.0)
    assert bucket.take(0.0) == 0.0
    assert bucket.take(1.0) == pytest.approx(1.0)
    assert bucket.take(2.0) == 0.0


@given(st.floats(0.1, 1000), st.lists(st.floats(0, 3), min_size=1, max_size=200))
def test_nobody_gets_more_than_the_rate(rate, pauses):
    """Whatever the pattern: at most the burst and what the time brought, and never less than one token's time apart."""
    bucket, now, taken = Bucket(rate, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.take(now) == 0.0
    assert taken <= bucket.burst + now * rate + 1e-6


def test_a_clock_that_goes_back_gives_nothing():
    """And takes nothing."""
    bucket = Bucket(1.0, 10.0)
    assert bucket.take(10.0) == 0.0
    assert bucket.take(5.0) > 0.0
    assert bucket.take(6.1) == 0.0
