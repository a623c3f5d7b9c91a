"""Named scenarios of whole trees. A failing seed is replayed by `MSRT_SEED=n pytest tests/flows/test_stories.py`."""

from __future__ import annotations

import asyncio
import copy

from msrt import errors
from tests.flows import invariants
from tests.flows.tree import grown, until


async def serve_first(tree):
    """Model 1 runs on every device."""
    version = await tree.push(1)
    await tree.ask("model.rollout", model="net", version=version)
    await until(lambda: tree.ready("net", version), what="model 1 is ready everywhere")


def holds(tree, edge, device):
    """Is that device at that edge now?"""
    return tree[edge] is not None and tree.node_id(device) in tree[edge].device_peers()


def test_a_tree_joins_serves_watches_and_trains(seed):
    """Everybody joins by invite, one model is served, its readings become events, two rounds are trained."""

    async def story(tree):
        version = await tree.push(1)
        await tree.ask("model.rollout", model="net", version=version)
        await until(lambda: tree.ready("net", 1), what="model 1 is ready everywhere")
        job = await tree.train(rounds=2)
        asked = [tree.sim.node("client").handler.ask([1, 2, 3, n]) for n in range(5)]
        await asyncio.wait_for(asyncio.gather(*(one.settled for one in asked)), 5)
        assert [len(one.answers) for one in asked] == [1] * 5, [one.failures for one in asked]
        await until(lambda: tree.ended(job), what="the job ended")
        assert tree.job(job).ended.state == "finished"
        assert tree.job(job).round == 2
        await until(lambda: tree.cloud.events.last > 10, what="events")

    grown(story, seed)


def test_an_edge_restarted_without_the_cloud_serves_the_same_models(seed):
    """With the cloud away, an edge and a device that reboot know each other and the model from their own disks."""

    async def story(tree):
        await serve_first(tree)
        for name in ("cloud", "edge-n", "device-1"):
            tree.sim.crash(name)
        await asyncio.sleep(3)
        for name in ("edge-n", "device-1"):
            tree.sim.restart(name)
        await until(lambda: all(holds(tree, "edge-n", device) for device in tree.devices), what="known devices are in")
        await until(lambda: tree.ready("net", 1), what="the same version is ready")
        asked = [tree.sim.node("client").handler.ask([1, 2, 3, n]) for n in range(4)]
        await asyncio.wait_for(asyncio.gather(*(one.settled for one in asked)), 6)
        assert [len(one.answers) for one in asked] == [1] * 4, [one.failures for one in asked]
        assert tree.cloud is None
        tree.sim.restart("cloud")
        await invariants.hold(tree, asked)

    grown(story, seed, edges={"edge-n": 2})


def test_a_rollout_that_never_gets_ready_blocks_no_other(seed):
    """The file of one model cannot be had anywhere; the rollout of another goes through meanwhile."""

    async def story(tree):
        await serve_first(tree)
        await tree.push(3, name="stuck")
        manifest = tree.cloud.writer.state.models["stuck"][1].manifest
        blobs = tree.cloud.artifacts.blobs
        files = [digest for digest, _ in tree.sim.world("cloud").disk.digests() if digest.encode() in manifest]
        assert files
        for digest in files:
            blobs.delete(digest)
        await tree.ask("model.rollout", model="stuck", version=1)
        await asyncio.sleep(1)
        await tree.push(2)
        await tree.ask("model.rollout", model="net", version=2)
        await until(lambda: tree.ready("net", 2), 20, "the other model is ready")
        await until(lambda: tree.cloud.rollouts.status("net")["state"] == "done", 20, "the other rollout is through")
        assert not any(tree.ready("stuck", 1, [device]) for device in tree.devices)
        assert tree.cloud.rollouts.status("stuck")["state"] != "done"

    grown(story, seed)


def test_devices_whose_edge_died_serve_elsewhere_and_go_home_when_it_is_back(seed):
    """Asked all the time: nothing fails on the way home; all of them take part in a job afterwards."""

    async def story(tree):
        await serve_first(tree)
        northern = [device for device, edge in tree.devices.items() if edge == "edge-n"]
        tree.sim.crash("edge-n")
        await until(lambda: all(holds(tree, "edge-s", device) for device in tree.devices), what="all are in the south")
        tree.sim.restart("edge-n")
        client, asked = tree.sim.node("client").handler, []
        while not all(holds(tree, "edge-n", device) for device in northern):
            asked.append(client.ask([1, 2, 3, len(asked)]))
            assert len(asked) < 2000, "they did not come home"
            await asyncio.sleep(0.05)
        await asyncio.wait_for(asyncio.gather(*(one.settled for one in asked)), 6)
        assert [len(one.answers) for one in asked] == [1] * len(asked), [one.failures for one in asked]
        await until(lambda: tree.ready("net", 1), what="model 1 is ready everywhere")
        job = await tree.train(rounds=2)
        await until(lambda: tree.ended(job), what="the job ended")
        assert tree.job(job).ended.state == "finished"

    grown(story, seed, device_config={"home_s": 5.0})


def test_a_revoked_device_is_expelled_and_refused_at_every_edge(seed):
    """It is sent away where it is, and finds no other door, not after a reboot either."""

    async def story(tree):
        await serve_first(tree)
        await tree.ask("node.remove", node="device-1")
        for _ in range(2):
            await until(lambda: isinstance(tree["device-1"].uplink.hopeless, errors.Revoked), what="every edge refused")
            for _ in range(100):
                assert not any(holds(tree, edge, "device-1") for edge in tree.edges)
                await asyncio.sleep(0.05)
            tree.sim.crash("device-1")
            tree.sim.restart("device-1")
            await until(lambda: tree["device-1"] is not None)
        assert tree.ready("net", 1, [name for name in tree.devices if name != "device-1"])

    grown(story, seed)


def test_a_follower_ahead_of_its_master_stops_and_says_so(seed):
    """The cloud comes back from an older disk: edges keep what they have, serve on, and name the reason."""

    async def story(tree):
        await serve_first(tree)
        seat = tree.sim._seats["cloud"]
        older = copy.deepcopy(seat.disk._images)
        await tree.push(2)
        await tree.ask("model.rollout", model="net", version=2)
        await until(lambda: tree.ready("net", 2) and invariants.converged(tree), what="edges know of model 2")
        before = {edge: dict(tree[edge].follower.replica.positions) for edge in tree.edges}
        tree.sim.crash("cloud")
        seat.disk._images = older
        tree.sim.restart("cloud")
        await until(lambda: all(tree[edge].follower.refused for edge in tree.edges), what="edges were refused")
        await asyncio.sleep(5)
        for edge in tree.edges:
            assert "its master only up to" in tree[edge].follower.refused
            assert tree[edge].follower.replica.positions == before[edge]
        assert tree.ready("net", 2)

    grown(story, seed)


def test_events_made_while_the_disk_of_the_edge_is_full_all_arrive(seed):
    """They wait on the devices and come up, each once, when the edge has room again."""

    async def story(tree):
        await serve_first(tree)
        tree.sim.disk_full("edge-n")
        await asyncio.sleep(2)
        before = tree.cloud.events.last
        await asyncio.sleep(10)
        assert tree.cloud.events.last == before, "nothing is passed on that the edge could not keep"
        tree.sim.disk_full("edge-n", full=False)
        written = {name: tree[name].watches[0]._read for name in ("device-1", "device-2")}
        assert min(written.values()) > 20
        await until(lambda: not invariants.missing(tree, written), 30, "all events arrived")
        invariants.check_events(tree)

    grown(story, seed, device_config={"reconnect_max_s": 1.0}, edges={"edge-n": 3})
