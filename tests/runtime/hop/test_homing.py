"""A child that fled to another region goes home, and only then, and only at a good moment."""

from __future__ import annotations

import asyncio

import msgspec

from msrt import errors
from msrt.hop.homing import PATIENCE_S
from msrt.hop.uplink import GREET_S
from tests.runtime.hop.tree import identity, parent_of, simulate, until

EVERY_S = 4.0


def at(tree, name):
    """Is the child there?"""
    peer = tree.c.up.peer
    return peer is not None and peer.live and peer.node == identity(name).node


async def fled(tree):
    """The child is with q, and p is dead."""
    tree.sim.crash("p")
    await until(lambda: at(tree, "q"))


def scene(scenario, **more):
    simulate(scenario, parents=("p", "q"), home_s=EVERY_S, limit=6000, **more)


def test_it_goes_home_when_its_own_parent_is_there_again():
    """Within two looks; the other parent hears why."""

    async def scenario(tree):
        await fled(tree)
        await asyncio.sleep(3 * EVERY_S)
        tree.sim.restart("p")
        await until(lambda: at(tree, "p"), 2 * EVERY_S)
        assert tree.p.peer.previous == identity("q").node
        [(_, why, final)] = tree.q.handler.lefts
        assert "it goes home" in str(why)
        assert final

    scene(scenario)


def test_looking_for_home_does_not_disturb_the_session():
    """As long as nobody is there, the child stays, and what it is asked is answered."""

    async def scenario(tree):
        await fled(tree)
        joins = len(tree.c.handler.joins)
        for number in range(40):
            assert await tree.q.peer.call("echo", {"n": number}) == {"n": number}
            await asyncio.sleep(EVERY_S / 4)
        assert at(tree, "q")
        assert len(tree.c.handler.joins) == joins
        assert not tree.q.handler.lefts

    scene(scenario)


def test_who_is_told_to_stay_stays():
    """With 0 seconds nobody looks."""

    async def scenario(tree):
        await fled(tree)
        tree.sim.restart("p")
        await asyncio.sleep(10 * EVERY_S)
        assert at(tree, "q")

    simulate(scenario, parents=("p", "q"), home_s=0.0)


def test_it_waits_for_a_good_moment():
    """While it has something that would be cut off it stays."""

    async def scenario(tree):
        tree.c.busy = True
        await fled(tree)
        tree.sim.restart("p")
        await asyncio.sleep(10 * EVERY_S)
        assert at(tree, "q")
        tree.c.busy = False
        await until(lambda: at(tree, "p"), 2.0)

    scene(scenario)


def test_who_is_never_quiet_goes_all_the_same():
    """After its patience."""

    async def scenario(tree):
        tree.c.busy = True
        await fled(tree)
        tree.sim.restart("p")
        await asyncio.sleep(PATIENCE_S - EVERY_S)
        assert at(tree, "q")
        await until(lambda: at(tree, "p"), 4 * EVERY_S)

    scene(scenario)


def test_a_home_that_does_not_take_it_costs_a_moment_and_is_tried_less_and_less_often():
    """It connects and refuses: the child is back where it was at once, and waits twice as long each time."""

    async def scenario(tree):
        await fled(tree)
        tree.sim.restart("p")
        await until(lambda: tree.sim.node("p") is not None)

        def refuse(_hello, _principal):
            raise errors.Unavailable("not ready")

        tree.p.gate.admit = refuse
        began, gaps = tree.sim.loop.time(), []
        for left in range(1, 6):
            await until(lambda left=left: len(tree.q.handler.lefts) == left, 40 * EVERY_S)
            gone = tree.sim.loop.time()
            gaps.append(gone - began)
            await until(lambda: at(tree, "q"), GREET_S + 1)
            began = tree.sim.loop.time()
        assert gaps[4] > 4 * EVERY_S > gaps[0]
        del tree.p.gate.admit
        await until(lambda: at(tree, "p"), 64 * EVERY_S)

    scene(scenario)


def test_a_parent_at_the_same_address_is_not_looked_for():
    """Two edges behind one broker: a second connection there would end the first."""

    async def scenario(tree):
        await fled(tree)
        tree.sim.restart("p")
        tree.q.gate.offered = (parent_of("q"), msgspec.structs.replace(parent_of("p"), zmq=parent_of("q").zmq))
        tree.q.down.offer_parents()
        await asyncio.sleep(10 * EVERY_S)
        assert at(tree, "q")
        assert not tree.q.handler.lefts

    scene(scenario)


def test_an_address_that_cannot_be_dialled_does_not_end_the_search():
    """It is looked at again, and found once the parent says where home really is."""

    async def scenario(tree):
        await fled(tree)
        tree.sim.restart("p")
        for zmq in ("nonsense://p", "mem://p"):
            tree.q.gate.offered = (parent_of("q"), msgspec.structs.replace(parent_of("p"), zmq=zmq))
            tree.q.down.offer_parents()
            await asyncio.sleep(4 * EVERY_S)
            assert at(tree, "q" if zmq.startswith("nonsense") else "p")

    scene(scenario)
