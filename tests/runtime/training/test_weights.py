"""Small weights ride with a round's opening, or follow from what changed: verified, and nothing of them on the disk."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from msrt.learning.compress import change, open_codec
from msrt.learning.vector import Layout, save
from msrt.protocol.messages import Change, RoundOpen
from msrt.training.weights import CARRIED, MOST, AtHand, carries

LAYOUT = Layout.of({"w": np.zeros(8, np.float32)})
ZERO = np.zeros(8, np.float32)
FIRST = bytes(save(LAYOUT, ZERO))


def name(data):
    return hashlib.sha256(data).hexdigest()


def opened(weights, *chain, number=1):
    return RoundOpen("job", number, "b", b"s", weights, 5.0, chain=chain)


def follow():
    """The next weights, and the change that leads there."""
    moved = np.empty_like(ZERO)
    payload = change(open_codec("int8", LAYOUT), ZERO, np.arange(8, dtype=np.float32), 1, moved)
    return bytes(save(LAYOUT, moved)), bytes(payload)


def test_weights_that_came_along_are_found_again():
    """Also when the round is announced again without them."""
    hand = AtHand()
    assert hand.find(opened(name(FIRST)), [FIRST]) == FIRST
    assert hand.find(opened(name(FIRST))) == FIRST


@pytest.mark.parametrize("frames", [[], [b"others"]])
def test_what_is_not_named_is_not_taken(frames):
    """They are fetched then."""
    assert AtHand().find(opened(name(FIRST)), frames) is None


def test_the_next_weights_follow_from_a_change():
    """The version before is at hand, and the digest of what comes out is right."""
    hand, (after, payload) = AtHand(), follow()
    hand.find(opened(name(FIRST)), [FIRST])
    step = Change(name(FIRST), name(payload), "int8")
    assert bytes(hand.find(opened(name(after), step, number=2), [payload])) == after
    assert bytes(hand.find(opened(name(after), step, number=2))) == after


@pytest.mark.parametrize("known", [True, False])
def test_a_change_that_leads_elsewhere_is_nothing(known):
    """Its base is not here, or its result is not what the cloud names."""
    hand, (after, payload) = AtHand(), follow()
    if known:
        hand.find(opened(name(FIRST)), [FIRST])
    wanted = name(b"something else") if known else name(after)
    step = Change(name(FIRST), name(payload), "int8")
    assert hand.find(opened(wanted, step, number=2), [payload]) is None


def test_a_change_that_cannot_be_read_is_nothing():
    """Whatever its digest says."""
    hand = AtHand()
    hand.find(opened(name(FIRST)), [FIRST])
    step = Change(name(FIRST), name(b"no payload"), "int8")
    assert hand.find(opened(name(follow()[0]), step, number=2), [b"no payload"]) is None


def test_a_job_that_is_over_keeps_nothing():
    """Its name may be used again."""
    hand = AtHand()
    hand.find(opened(name(FIRST)), [FIRST])
    hand.forget("job")
    assert hand.find(opened(name(FIRST))) is None


def test_only_what_is_small_rides_along():
    """A change does where the weights that it leads to are kept in memory."""
    assert carries(bytes(CARRIED)) == (bytes(CARRIED),)
    assert carries(bytes(CARRIED + 1)) == ()
    assert carries(bytes(MOST), b"change") == (b"change",)
    assert carries(bytes(MOST + 1), b"change") == ()
