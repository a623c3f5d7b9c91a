"""Updates over the air in whole trees: groups, thresholds, stops, and who dies in the middle."""

from __future__ import annotations

import asyncio
import hashlib
import random

import msgspec
import pytest

from msrt import errors
from msrt.artifacts.images import pack_image, read_image
from msrt.protocol.messages import UpdateOffers
from msrt_device.updater.memory import MemorySlots
from tests.flows.updating import grown_updating, until

BEGUN = {"fetching", "writing", "waiting"}


async def over(tree, name, seconds=300.0):
    """The campaign's row once it is over."""

    def state():
        return tree.cloud is not None and tree.cloud.writer.state.updates[name].state

    await until(lambda: state() in {"done", "stopped"}, seconds, f"{name} ends")
    return await tree.campaign(name)


def test_a_fleet_is_updated_group_by_group_each_device_once():
    """All run the new version at the end, each restarted once and told it once; the edge fetched the image once."""

    async def scenario(tree):
        name = await tree.push_image("2")
        asked = await tree.insist("update.rollout", name=name, groups=[0.3, 1.0], soak_s=1.0)
        assert asked["matching"] == 6
        row = await over(tree, name)
        assert (row["state"], row["done"], row["errors"], row["group"]) == ("done", 6, 0, 2)
        assert set(tree.versions().values()) == {"2"}
        assert sorted(tree.starts) == sorted((d, v) for d in tree.devices for v in "12")
        assert await tree.told() == {device: ["done"] for device in tree.devices}

    grown_updating(scenario)


def test_too_many_errors_stop_it_and_the_old_version_runs_on():
    """The first group fails: the others never hear of it."""

    async def scenario(tree):
        name = await tree.push_image("2")
        await tree.insist("update.rollout", name=name, groups=[0.4, 1.0])
        row = await over(tree, name)
        assert row["state"] == "stopped"
        assert "devices failed" in row["reason"]
        await asyncio.sleep(5.0)
        assert set(tree.versions().values()) == {"1"}
        assert {node["state"] for node in row["nodes"]} <= {"error", "waiting", "pending"}
        assert any(node["state"] == "waiting" for node in row["nodes"])

    grown_updating(scenario, bad=10)


class Faulty(MemorySlots):
    """Half an image is written when a fault comes that no code has a word for."""

    def write(self, image, read, index=b""):
        self.bank.held.pop("b", None)
        if image.version == "2":
            raise KeyError("nobody thought of this")
        super().write(image, read, index)


def test_a_fault_that_nobody_thought_of_ends_the_update_and_nothing_else():
    """It failed, with its reason, told once; the other slot is empty, the device serves on and takes the next image."""

    async def scenario(tree):
        (device,) = tree.devices
        tree.slots = Faulty
        tree.sim.crash(device)
        tree.sim.restart(device)
        name = await tree.push_image("2")
        await tree.insist("update.rollout", name=name, success=0.5, errors=1.0)
        row = await over(tree, name, 60.0)
        assert [(node["state"], node["reason"]) for node in row["nodes"]] == [
            ("error", "KeyError: 'nobody thought of this'")
        ]
        assert tree.banks[device].held.keys() == {"a"}
        assert await tree.told() == {device: ["failed"]}
        name = await tree.push_image("3")
        await tree.insist("update.rollout", name=name)
        assert (await over(tree, name))["state"] == "done"
        assert tree.versions() == {device: "3"}
        assert await tree.told() == {device: ["failed", "done"]}

    grown_updating(scenario, edges={"edge-n": 1})


@pytest.mark.parametrize("place", ["device", "edge"])
def test_an_image_that_does_not_fit_is_a_failed_update_before_anything_is_written(place):
    """On the device's disk or on its edge's; told once, with the numbers; it comes when there is room."""

    async def scenario(tree):
        (device,) = tree.devices
        disk, image = tree[device if place == "device" else "edge-n"].world.disk, random.Random(1).randbytes(5 << 20)
        disk.room = 20 << 20
        name = await tree.push_image("2", image)
        await tree.insist("update.rollout", name=name, success=0.5, errors=1.0)
        (row,) = (await over(tree, name, 60.0))["nodes"]
        assert row["state"] == "error"
        assert "has 5242880 bytes, 20971520 are free" in row["reason"]
        assert disk.blobs().partial(hashlib.sha256(image).hexdigest()) == 0
        assert await tree.told() == {device: ["failed"]}
        disk.room = 60 << 20
        await tree.insist("update.rollout", name=name)
        assert (await over(tree, name))["state"] == "done"
        assert await tree.told() == {device: ["failed", "done"]}

    grown_updating(scenario, edges={"edge-n": 1})


def test_the_cloud_dies_in_the_middle_and_goes_on():
    """The journal knows the group; what became of each device is counted once."""

    async def scenario(tree):
        name = await tree.push_image("2")
        await tree.insist("update.rollout", name=name, groups=[0.3, 0.6, 1.0], soak_s=2.0)
        await until(lambda: "2" in tree.versions().values(), what="somebody runs it")
        tree.sim.crash("cloud")
        await asyncio.sleep(10.0)
        tree.sim.restart("cloud")
        row = await over(tree, name)
        assert (row["state"], row["done"], row["devices"]) == ("done", 6, 6)
        assert await tree.told() == {device: ["done"] for device in tree.devices}

    grown_updating(scenario)


def test_a_stuck_update_does_not_block_the_next_one():
    """A campaign that was paused half way is overtaken by a newer one."""

    async def scenario(tree):
        two, three = await tree.push_image("2"), await tree.push_image("3")
        await tree.insist("update.rollout", name=two, groups=[0.3, 1.0])
        await tree.insist("update.pause", name=two)
        await tree.insist("update.rollout", name=three)
        assert (await over(tree, three))["state"] == "done"
        assert set(tree.versions().values()) == {"3"}

    grown_updating(scenario)


def test_a_device_fetches_only_what_it_has_not_and_goes_on_where_it_was_cut_off():
    """A part of an image changed: little more than that part travels, also when the device dies on the way."""

    async def scenario(tree):
        old = random.Random(1).randbytes(600_000)
        new = old[:200_000] + random.Random(2).randbytes(30_000) + old[229_000:]
        two, three = await tree.push_image("2", old), await tree.push_image("3", new)
        await tree.insist("update.rollout", name=two)
        assert (await over(tree, two))["state"] == "done"
        before = sent(tree)
        assert before > 6 * 600_000
        await tree.insist("update.rollout", name=three)
        await until(lambda: any(stage(tree, name) in BEGUN for name in tree.devices), what="one began")
        victim = next(name for name in tree.devices if stage(tree, name) in BEGUN)
        tree.restart(victim)
        assert (await over(tree, three))["state"] == "done"
        assert tree.banks[victim].bytes["a"] == new
        assert sent(tree) - before < 0.15 * 6 * 600_000
        assert tree.cloud.artifacts.sent_bytes < 1.1 * 2 * 2 * 600_000  # each edge fetched each image once

    def sent(tree):
        """Bytes that edges have sent to devices as parts of artifacts."""
        return sum(tree[edge].artifacts.sent_bytes for edge in tree.edges)

    def stage(tree, name):
        device = tree[name]
        states = device.updater.states() if device is not None else ()
        return states[0].stage if states else ""

    grown_updating(scenario)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_devices_of_which_a_tenth_are_bad():
    """Thresholds stop it; an operator who saw the errors lets it go on; a pause holds it, an emergency stop ends it."""

    async def scenario(tree):
        name = await tree.push_image("2")
        await tree.insist("update.rollout", name=name, groups=[0.05, 0.25, 1.0], errors=0.06, success=0.85, soak_s=1.0)
        row = await over(tree, name)
        assert row["state"] == "stopped"
        assert row["errors"] > 0.06 * row["devices"]
        assert row["devices"] < 100
        await tree.insist("update.resume", name=name)
        await until(lambda: tree.cloud.writer.state.updates[name].group == 2, 300, "the last group begins")
        await tree.insist("update.pause", name=name)
        await asyncio.sleep(8.0)
        held = list(tree.versions().values()).count("2")
        await asyncio.sleep(8.0)
        assert list(tree.versions().values()).count("2") == held < 180
        await tree.insist("update.stop", name=name)
        await asyncio.sleep(12.0)
        versions = list(tree.versions().values())
        assert versions.count("2") == held
        told = await tree.told()
        assert all(len(outcomes) == 1 for outcomes in told.values())
        assert all(tree.versions()[device] == "1" for device in tree.devices if tree.is_bad(device))

    grown_updating(scenario, edges={"edge-n": 100, "edge-s": 100}, bad=1, limit=3000.0)


def test_an_image_that_an_edge_changes_is_refused_by_devices():
    """Another digest under a version that was signed: nobody writes it, the old agent runs on."""

    async def scenario(tree):
        for seen in tree[tree.edges[0]].fleet.devices.values():
            through = seen.peer.send

            def send(message, frames=(), through=through):
                if isinstance(message, UpdateOffers):
                    worse = [_worse(offer) for offer in message.offers]
                    message = msgspec.structs.replace(message, offers=tuple(worse))
                through(message, frames)

            seen.peer.send = send
        name = await tree.push_image("2")
        await tree.insist("update.rollout", name=name, groups=[1.0])
        here = [device for device, edge in tree.devices.items() if edge == tree.edges[0]]
        await until(lambda: all(tree[device].trust.refused for device in here))
        await asyncio.sleep(3.0)
        assert {tree.versions()[device] for device in here} == {"1"}

    grown_updating(scenario)


def _worse(offer):
    image = msgspec.structs.replace(read_image(offer.image), digest="b" * 64, index="")
    return msgspec.structs.replace(offer, image=pack_image(image))


def test_old_campaigns_are_forgotten_though_the_cloud_dies_half_way():
    """Edges forget them as well; what became of each device goes after that, by the next process; devices stay."""

    async def scenario(tree):
        def full():
            raise errors.DiskFull("no room")

        def known(name):
            return set((tree.cloud.writer if name == "cloud" else tree[name].follower).state.updates)

        def seats():
            return {key.partition("/")[0] for key, _ in tree.cloud.world.disk.store("updates").scan()}

        for version in "2345":
            await tree.insist("update.rollout", name=await tree.push_image(version))
            await over(tree, f"agent@{version}")
        assert "agent@3" in known("cloud") & seats()
        tree.cloud.updates._store.commit = full  # the journal goes on
        await until(lambda: known("cloud") == known("edge-n") == {"agent@4", "agent@5"}, 60.0)
        tree.sim.crash("cloud")
        tree.sim.restart("cloud")
        await until(lambda: tree.cloud is not None and tree.cloud.ready.is_set())
        await until(lambda: seats() == {"agent@4", "agent@5"}, 60.0)
        row = await tree.campaign("agent@5")
        assert (row["state"], row["done"], row["devices"]) == ("done", 2, 2)
        assert set(tree.versions().values()) == {"5"}

    grown_updating(scenario, edges={"edge-n": 2}, cloud_config={"updates_kept": 2})


def test_an_update_that_could_not_be_trusted_yet_is_looked_at_again():
    """A newcomer's edge hides the signatures: it stays as it is, and goes on by itself once they come."""

    async def scenario(tree):
        name = await tree.push_image("2")
        await tree.insist("update.rollout", name=name)
        await over(tree, name)
        edge = tree["edge-n"]
        honest = edge.trust.answer

        async def hides(_params):
            raise errors.NotFound("this edge has no method 'trust.get'")

        edge.trust.answer = hides
        new = await tree.newcomer("edge-n")
        await until(lambda: tree[new] is not None and tree[new].trust.refused)
        await asyncio.sleep(20.0)
        assert tree.versions()[new] == "1"
        edge.trust.answer = honest
        await until(lambda: tree.versions()[new] == "2", 120.0)

        await asyncio.sleep(20.0)
        rows = (await tree.campaign(name))["nodes"]
        assert {row["name"]: row["state"] for row in rows}[new] == "done"

    grown_updating(scenario, edges={"edge-n": 1})
