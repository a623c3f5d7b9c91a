"""A whole edge: its cache, its neighbours, and life with the cloud away."""

from __future__ import annotations

import asyncio
import hashlib

from msrt.journal.facts import NodeRevoked
from msrt.protocol.messages import FleetReport, Infer, Inferred
from tests.edge.rig import answer, simulate, until
from tests.runtime.hop.tree import Sink, parent_of

FILE = b"net1" * 5000
DIGEST = hashlib.sha256(FILE).hexdigest()


async def fetched(device, digest=DIGEST):
    """A device fetches a file from its edge."""
    sink = Sink()
    await device.peer.fetch("artifact.get", {"digest": digest, "suspect": False}, sink)
    assert sink.whole
    return bytes(sink.data)


async def cached(rig):
    """The file of model 1 is on the edge's disk before anybody asked."""
    await rig.cloud.rollout(files={"fp32": FILE})
    await until(lambda: rig.edge.artifacts.has(DIGEST))


def test_files_are_fetched_ahead_and_served_with_the_cloud_away():
    """A device that comes later gets them from the edge's own disk, over a restart as well."""

    async def scenario(rig):
        await cached(rig)
        rig.sim.crash("cloud")
        await rig.reborn("edge")
        await until(lambda: rig.here("d1"))
        await until(lambda: rig.d1.placed == [("net", 1, "fp32", True)])
        assert await fetched(rig.d1) == FILE

    simulate(scenario)


def test_a_byte_flipped_on_disk_is_found_fetched_again_and_reported():
    """No device ever gets the damaged bytes."""

    async def scenario(rig):
        await cached(rig)
        await rig.reborn("edge")
        await rig.settled()
        await until(lambda: rig.here("d1"))
        rig.sim.world("edge").disk.blobs().flip(DIGEST, 7)
        assert await fetched(rig.d1) == FILE
        assert rig.edge.values()["artifacts_corrupt"] == 1
        assert b"artifact.corrupt" in rig.sim.log_bytes()
        await until(lambda: any(told.values["artifacts_corrupt"] == 1 for told in rig.cloud.told(FleetReport)))
        assert await fetched(rig.d1) == FILE
        assert rig.edge.values()["artifacts_corrupt"] == 1

    simulate(scenario)


def test_a_file_that_cannot_be_had_now_is_fetched_later():
    """The cloud is asked again, and what else there is to fetch is fetched."""

    async def scenario(rig):
        rig.sim.disk_full("edge")
        await rig.cloud.rollout(files={"fp32": FILE})
        await until(lambda: b"artifact.not_prefetched" in rig.sim.log_bytes())
        rig.sim.disk_full("edge", full=False)
        await until(lambda: rig.edge.artifacts.has(DIGEST), 10)

    simulate(scenario)


def test_an_edge_restarted_with_the_cloud_away_serves_on():
    """Known devices and clients come in, and are answered."""

    async def scenario(rig):
        await rig.serve()
        await until(lambda: rig.edge.follower.replica.durable.get("global") == 2)
        rig.sim.crash("cloud")
        await rig.reborn("edge")
        await until(lambda: all(rig.here(name) for name in ("d1", "d2", "c")))
        for name in ("d1", "d2"):
            getattr(rig, name).report(("net", 1))
        await until(lambda: rig.edge.fleet.ready_somewhere("net", 1))
        rig.c.ask(1)
        await until(lambda: rig.c.told(Inferred))
        assert rig.edge.cloud_away_s > 0

    simulate(scenario, clients=("c",))


def test_the_cloud_is_away_and_back():
    """How long is known; afterwards it hears of the fleet at once."""

    async def scenario(rig):
        assert rig.edge.cloud_away_s == 0
        rig.sim.crash("cloud")
        await until(lambda: rig.edge.uplink.peer is None)
        await asyncio.sleep(10)
        assert 9 < rig.edge.cloud_away_s < 13
        rig.sim.restart("cloud")
        await rig.settled()
        assert rig.edge.cloud_away_s == 0
        await until(lambda: rig.cloud.told(FleetReport), 3)
        told = rig.cloud.told(FleetReport)[0]
        assert (told.part, told.last) == (0, True)
        assert {record.name for record in told.devices} == {"d1", "d2"}

    simulate(scenario)


def test_neighbours_are_told_to_devices_and_remembered():
    """They are where devices go when this edge is gone: also after its restart without the cloud."""

    async def scenario(rig):
        rig.cloud.offered = [parent_of("edge"), parent_of("neighbour")]
        await until(lambda: [p.node for p in rig.edge.known_edges] == [rig.edge.node, parent_of("neighbour").node])
        rig.sim.crash("cloud")
        await rig.reborn("edge")
        await until(rig.edge.ready.is_set)
        assert rig.edge.known_edges[1] == parent_of("neighbour")

    simulate(scenario)


def test_a_device_that_is_revoked_is_expelled_and_its_work_goes_elsewhere():
    """Its request is answered by another."""

    async def scenario(rig):
        await rig.serve()
        rig.d1.answers = rig.d2.answers = None
        rig.c.ask(1)
        await until(lambda: rig.d1.told(Infer) or rig.d2.told(Infer))
        victim, other = (rig.d1, rig.d2) if rig.d1.told(Infer) else (rig.d2, rig.d1)
        other.answers = answer
        await rig.cloud.writer.append(NodeRevoked(victim.node, 1))
        await until(lambda: rig.c.told(Inferred), 5)
        assert rig.c.told(Inferred)[0].device == other.name
        await until(lambda: not rig.here(victim.name))

    simulate(scenario, clients=("c",))


def test_an_edge_that_closes_says_goodbye_to_both_sides():
    """Its devices know at once, not after a lease."""

    async def scenario(rig):
        began = rig.sim.now
        rig.edge.close()
        await until(lambda: not rig.here("d1") and not rig.here("d2"))
        assert rig.sim.now - began < 1.0

    simulate(scenario)
