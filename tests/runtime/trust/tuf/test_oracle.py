"""Whatever is done to metadata, our reader and python-tuf's come to the same verdict."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.runtime.trust.tuf.forge import DAY, NOW, Forge, Oracle, Ours


def states():
    """A forge after one and after two publications."""
    forge = Forge()
    first = dict(forge.mirror)
    return forge, first, forge.publish()


FORGE, FIRST, SECOND = states()
ROLES = sorted(SECOND)
change = st.tuples(
    st.sampled_from(ROLES),
    st.one_of(
        st.tuples(st.just("flip"), st.integers(0, 10_000), st.integers(1, 255)),
        st.tuples(st.just("cut"), st.integers(0, 10_000), st.just(0)),
        st.tuples(st.just("old"), st.just(0), st.just(0)),
        st.tuples(st.just("other"), st.integers(0, len(ROLES) - 1), st.just(0)),
        st.tuples(st.just("none"), st.just(0), st.just(0)),
    ),
)


def changed(data, role, kind, number, value):
    if not data:  # an earlier cut left nothing
        return data
    match kind:
        case "flip":
            at = number % len(data)
            return data[:at] + bytes([data[at] ^ value]) + data[at + 1 :]
        case "cut":
            return data[: number % len(data)]
        case "old":
            return FIRST[role]
        case "other":
            return SECOND[ROLES[number]]
    return data


@given(
    known=st.booleans(),
    changes=st.lists(change, max_size=2),
    days=st.sampled_from([0.0, 13.0, 15.0, 400.0]),
)
@example(known=True, changes=[("timestamp", ("old", 0, 0))], days=0.0)
@settings(max_examples=40)
def test_both_readers_agree(known, changes, days):
    """A flipped byte, a cut, an old file, another role's; with or without an earlier state; in time and too late."""
    ours, oracle = Ours(FORGE), Oracle(FORGE)
    if known:
        FORGE.mirror = FIRST
        assert (ours.trusts(), oracle.trusts()) == ("", "")
    FORGE.mirror = dict(SECOND)
    for role, (kind, number, value) in changes:
        FORGE.mirror[role] = changed(FORGE.mirror[role], role, kind, number, value)
    now = NOW + days * DAY
    mine, theirs = ours.trusts(now=now), oracle.trusts(now=now)
    assert bool(mine) == bool(theirs), (mine, theirs)
