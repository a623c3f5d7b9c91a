"""Leases that grow where a child was taken for dead and was not."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from msrt.hop.leases import BACK_S, CALM_S, DOUBTS, MOST, Leases
from tests.runtime.hop.tree import LEASE_S, simulate, until


def test_each_mistake_doubles_the_lease_up_to_its_bound():
    """1.5 s, 3, 6, 12, and no more."""
    leases, now, seen = Leases(1.5), 0.0, []
    for _ in range(6):
        seen.append(leases.of("e", 7, now))
        leases.ran_out("e", 7, seen[-1], now + 5)
        now += 6
    assert seen == [1.5, 3, 6, 12, 12, 12]
    assert leases.of("other", 7, now) == 1.5


def test_a_child_that_did_die_begins_with_the_setting():
    """It has another life; or it was away for longer than any lease would have waited."""
    leases = Leases(1.5)
    leases.ran_out("e", 7, 1.5, 10.0)
    assert leases.of("e", 8, 11.0) == 1.5
    leases.ran_out("e", 8, 1.5, 20.0)
    assert leases.of("e", 8, 20.0 + BACK_S + 1) == 1.5


def test_calm_makes_it_short_again():
    """By halves, at the sessions that begin then."""
    leases, now = Leases(1.5), 0.0
    for lease in (1.5, 3.0):
        leases.ran_out("e", 7, lease, now)
        leases.of("e", 7, now)
    seen = [leases.of("e", 7, now := now + CALM_S + 1) for _ in range(3)]
    assert seen == [3, 1.5, 1.5]


@given(st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 3), st.booleans(), st.floats(0, 50)), max_size=60))
def test_leases_keep_to_their_bounds(events):
    """Whatever happens, a lease is between the setting and `MOST` times it, and what is remembered is bounded."""
    leases, now = Leases(1.5), 0.0
    for child, boot, out, wait in events:
        now += wait
        lease = leases.of(str(child), boot, now)
        assert 1.5 <= lease <= MOST * 1.5
        if out:
            leases.ran_out(str(child), boot, lease, now)
    for child in range(DOUBTS + 10):
        leases.ran_out(f"c{child}", 1, 1.5, now)
    assert len(leases._doubts) == DOUBTS


def test_a_starved_child_is_given_up_once():
    """Silent for longer than its lease again and again, as on a machine that has no time for it: the second time its
    parent waits, and the session goes on."""

    async def scenario(tree):
        for _ in range(3):
            tree.sim.partition("p", "c")
            await asyncio.sleep(LEASE_S * 1.2)
            tree.sim.heal()
            await until(lambda: tree.p.down.peers and tree.c.up.peer and tree.c.up.peer.live)
            assert await tree.c.up.call("echo", {"x": 1}) == {"x": 1}
            await asyncio.sleep(3 * LEASE_S)
        assert [final for _, _, final in tree.p.handler.lefts].count(True) == 1
        assert tree.p.peer.session.lease_s == tree.c.up.peer.session.lease_s == 2 * LEASE_S

    simulate(scenario)
