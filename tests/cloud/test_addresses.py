"""Which edges a cloud names to others, over its own death."""

from __future__ import annotations

import asyncio

from msrt import errors
from msrt.journal.facts import NodeEnrolled
from tests.cloud.rig import simulate, until
from tests.runtime.hop.tree import identity


def named(rig):
    """Regions of the edges that the cloud names to whoever asks."""
    return sorted(parent.region for parent in rig.cloud.fleet.parents(""))


async def new_cloud(rig):
    await asyncio.sleep(1.0)
    rig.sim.crash("cloud")
    rig.sim.restart("cloud")
    await until(lambda: rig.cloud is not None and rig.cloud.ready.is_set())


def test_a_cloud_that_starts_anew_names_edges_that_are_not_back_yet():
    """Else the first one back would hear that it is alone. They are away until they come."""

    async def scenario(rig):
        await rig.edge("edge-n", "north")
        await rig.edge("edge-s", "south")
        rig.sim.crash("edge-s")
        await new_cloud(rig)
        assert named(rig) == ["north", "south"]
        assert not rig.cloud.fleet.edges[identity("edge-s").node].alive

    simulate(scenario)


def test_an_edge_that_was_removed_is_named_to_nobody():
    """At once, and by the next cloud."""

    async def scenario(rig):
        await rig.cloud.writer.append(NodeEnrolled(identity("edge-s").node, "edge", "edge-s", "south", serial=1))
        await rig.edge("edge-n", "north")
        await rig.edge("edge-s", "south")
        assert named(rig) == ["north", "south"]
        await rig.operator.ask("node.remove", node="edge-s")
        assert named(rig) == ["north"]
        await new_cloud(rig)
        assert named(rig) == ["north"]

    simulate(scenario)


def test_a_full_disk_keeps_no_edge_from_joining():
    """It is named all the same."""

    async def scenario(rig):
        def full():
            raise errors.DiskFull("no room")

        rig.cloud.addresses._store.commit = full
        await rig.edge("edge-n", "north")
        await asyncio.sleep(1.0)
        assert named(rig) == ["north"]
        assert rig.cloud.ready.is_set()

    simulate(scenario)
