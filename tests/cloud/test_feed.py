"""An edge follows the journal: from where it is, its own scopes only, by snapshot where the tail is gone."""

from __future__ import annotations

import asyncio

from msrt.journal.block import Block
from msrt.journal.facts import NodeEnrolled, RolloutSet
from msrt.protocol.messages import Follow, FollowRefused, JournalBlock
from tests.cloud.rig import simulate, until


def told(edge):
    """(scope, offset) of every entry it was sent in blocks, in order."""
    found = []
    for message, frames in edge.heard:
        if isinstance(message, JournalBlock):
            found += [(message.scope, offset) for offset, _ in Block.received(message, frames[0]).packed]
    return found


async def write(rig, *scopes):
    """One entry for each: a region's device, or a rollout for all."""
    for number, scope in enumerate(scopes, rig.cloud.writer.log.offset):
        fact = (
            RolloutSet("net", number + 1)
            if scope == "global"
            else NodeEnrolled(f"node{number}", "device", f"cam-{number}", scope)
        )
        await rig.cloud.writer.append(fact)


def follow(rig, edge, **scopes):
    edge.peer.send(Follow(rig.cloud.writer.log.log_id, rig.cloud.writer.log.epoch, scopes))


def test_a_new_edge_gets_everything_and_then_what_comes():
    """In the order of its offsets, each entry once."""

    async def scenario(rig):
        await write(rig, "global", "north", "global")
        edge = await rig.edge("edge", "north")
        edge.peer.send(Follow("", 0, {"global": 0, "north": 0}))
        await until(lambda: len(told(edge)) == 3)
        await write(rig, "north", "global")
        await until(lambda: len(told(edge)) == 5)
        assert sorted(told(edge), key=lambda entry: entry[1]) == [
            ("global", 1), ("north", 2), ("global", 3), ("north", 4), ("global", 5),
        ]  # fmt: skip

    simulate(scenario)


def test_an_edge_gets_only_what_it_lacks():
    """From the offsets that it has on its own disk."""

    async def scenario(rig):
        await write(rig, "global", "north", "global", "north")
        edge = await rig.edge("edge", "north")
        follow(rig, edge, **{"global": 1, "north": 4})
        await until(lambda: told(edge))
        await asyncio.sleep(1)
        assert told(edge) == [("global", 3)]

    simulate(scenario)


def test_an_edge_gets_its_own_region_and_no_secrets():
    """It may ask for more: another region and what stays in the cloud are not sent."""

    async def scenario(rig):
        await rig.operator.ask("invite.create", role="edge", region="north")
        await write(rig, "global", "south", "north")
        edge = await rig.edge("edge", "north")
        edge.peer.send(Follow("", 0, {"global": 0, "north": 0, "south": 0, ".cloud": 0}))
        await until(lambda: len(told(edge)) == 2)
        await asyncio.sleep(1)
        assert {scope for scope, _ in told(edge)} == {"global", "north"}
        assert edge.said(FollowRefused) == []

    simulate(scenario)


def test_an_edge_behind_the_tail_gets_a_snapshot():
    """As a stream, whole and signed, and then the entries after it."""

    async def scenario(rig):
        await write(rig, *["global"] * 12)
        edge = await rig.edge("edge", "north")
        edge.peer.send(Follow("", 0, {"global": 0, "north": 0}))
        await until(lambda: edge.sinks and edge.sinks[0].whole)
        await write(rig, "global")
        await until(lambda: ("global", 13) in told(edge))
        assert ("global", 1) not in told(edge)

    simulate(scenario, journal_snapshot_entries=5)


def test_a_replica_of_another_journal_is_refused():
    """It is told why, and sent nothing: two truths do not mix."""

    async def scenario(rig):
        await write(rig, "global")
        edge = await rig.edge("edge", "north")
        edge.peer.send(Follow("another-log", 1, {"global": 1}))
        await until(lambda: edge.said(FollowRefused))
        assert "another-log" in edge.said(FollowRefused)[0].text
        follow(rig, edge, **{"global": 99})
        await until(lambda: len(edge.said(FollowRefused)) == 2)
        assert told(edge) == []

    simulate(scenario)


def test_following_again_takes_the_place_of_following():
    """No entry comes twice."""

    async def scenario(rig):
        await write(rig, "global")
        edge = await rig.edge("edge", "north")
        for _ in range(3):
            follow(rig, edge, **{"global": 1})
        await write(rig, "global")
        await until(lambda: told(edge))
        await asyncio.sleep(1)
        assert told(edge) == [("global", 2)]

    simulate(scenario)


def test_an_edge_that_is_gone_is_not_fed():
    """Its tail ends with its session; the journal holds nothing for it."""

    async def scenario(rig):
        edge = await rig.edge("edge", "north")
        follow(rig, edge, **{"global": 0})
        await until(lambda: rig.cloud.feed._tails)
        rig.sim.crash("edge")
        await until(lambda: not rig.cloud.feed._tails)
        await write(rig, "global")

    simulate(scenario)
