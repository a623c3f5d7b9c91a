"""A whole device below a parent: what it serves, what it keeps, what it refuses."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from msrt import errors
from msrt.protocol.messages import Assign, DeviceReport, Load, StreamOpen
from msrt.settings import SourceConfig
from tests.device.rig import digest, simulate, until
from tests.runtime.inference.models import mlp


def test_a_new_version_takes_over_between_two_requests():
    """Asked all the time, it answers each request once, by version 1 first and by version 2 from some request on."""

    async def scenario(rig):
        await rig.serving(1)
        new = await rig.model(2)
        for number in range(200):
            if number == 50:
                rig.assign(2, new)
            rig.ask()
            await asyncio.sleep(0.005)
        await until(lambda: len(rig.answers()) == 200)
        versions = [version for _, version in rig.answers()]
        assert [ident for ident, _ in rig.answers()] == list(range(1, 201))
        assert versions == sorted(versions)
        assert set(versions) == {1, 2}

    simulate(scenario)


def test_a_version_that_does_not_load_leaves_the_last_good_one():
    """Version 1 answers on; the edge hears that version 2 failed, and why."""

    async def scenario(rig):
        await rig.serving(1)
        rig.assign(2, await rig.model(2, b"this is no ONNX file"))

        def failed():
            states = {m.version: m for m in rig.edge.said(DeviceReport)[-1].models}
            return 2 in states and states[2].state == "failed" and states[2].error

        await until(failed)
        rig.ask()
        await until(rig.answers)
        assert rig.answers() == [(1, 1)]

    simulate(scenario)


def test_what_another_cloud_signed_is_not_loaded():
    """The manifest's signature is checked against the key of this device's invite."""

    async def scenario(rig):
        good = await rig.model(1)
        forged = type(good)(good.model, good.version, good.variant, good.manifest, b"x" * 64)
        rig.assign(1, forged)
        await until(lambda: any(m.state == "failed" for m in rig.edge.said(DeviceReport)[-1].models))
        rig.ask()
        await until(rig.answers)
        assert rig.answers()[0][1] == "unavailable"

    simulate(scenario)


def test_a_reboot_without_an_edge_brings_the_same_model_back():
    """The assignment and the file are on its own disk."""

    async def scenario(rig):
        await rig.serving(1)
        await asyncio.sleep(1)
        rig.sim.crash("p")
        rig.sim.crash("d")
        rig.sim.restart("d")
        await until(lambda: rig.ready(1))

    simulate(scenario)


def test_a_full_disk_holds_a_model_up_and_ends_nothing():
    """The device says so, lives on, and loads the model once there is room."""

    async def scenario(rig):
        await rig.serving(1)
        rig.sim.disk_full("d")
        rig.assign(2, await rig.model(2))
        await asyncio.sleep(5)
        rig.ask()
        await until(rig.answers)
        assert rig.answers() == [(1, 1)]
        rig.sim.disk_full("d", False)
        await until(lambda: rig.ready(2))

    simulate(scenario)


def test_a_device_does_only_what_a_device_does():
    """It has two methods, takes no stream and keeps no events for others: each refusal is typed."""

    async def scenario(rig):
        peer = rig.edge.peer
        with pytest.raises(errors.NotFound, match=r"invite\.create"):
            await peer.call("invite.create", {"role": "device"})
        with pytest.raises(errors.Forbidden, match="takes no stream model"):
            rig.device.stream(rig.device.uplink.peer, StreamOpen(1, "model"))
        with pytest.raises(errors.Forbidden):
            await rig.device.stored(rig.device.uplink.peer, [])
        assert await peer.call("logs", {"lines": 3}) == []

    simulate(scenario)


def test_diagnose_and_reports_name_each_source_and_how_it_fares():
    """A source with a fault is seen at the edge without a look at the device."""
    broken = SourceConfig(name="belt", model="net", kind="replay", path="/nowhere/at/all.npy")

    async def scenario(rig):
        await rig.serving(1)
        found = await rig.edge.peer.call("diagnose", {})
        assert "does not exist" in found["sources"]["belt"]
        assert found["answered"] == 0
        rig.assign(2, await rig.model(2))
        await until(lambda: "does not exist" in rig.edge.said(DeviceReport)[-1].sources["belt"])
        assert rig.edge.said(DeviceReport)[-1].labels == {"site": "a"}
        await until(lambda: rig.edge.said(Load))

    simulate(scenario, labels={"site": "a"}, source=(broken,))


def test_old_models_make_room_and_the_one_in_use_stays():
    """A cache for one file beside those in use lets the third version in, and the first one go."""
    size = len(mlp(seed=1))

    async def scenario(rig):
        for version in (1, 2, 3):
            await rig.serving(version)
        held = rig.device.artifacts
        assert held.has(digest(mlp(seed=3)))
        assert not held.has(digest(mlp(seed=1)))
        assert held.held_bytes <= 2 * size

    simulate(scenario, cache_bytes=size)


def test_the_version_before_answers_on_until_its_edge_has_heard():
    """For a moment it is held without being reported, then its memory is free."""

    async def scenario(rig):
        await rig.serving(1)
        await rig.serving(2)
        assert [state.version for state in rig.device.slots.reports()] == [2]
        old = rig.device.slots.borrow("net", 1)
        assert old.placement.version == 1
        rig.device.slots.give_back(old)
        await asyncio.sleep(2)
        assert [slot.placement.version for slot in rig.device.slots.held()] == [2]

    simulate(scenario)


def test_an_assignment_in_parts_counts_when_its_last_part_is_here():
    """Nothing goes before, nothing of an older one is mixed in, and it outlasts a restart however large it is."""

    async def scenario(rig):
        await rig.serving(1)
        one, two = await rig.model(1), await rig.model(2)
        many = tuple(
            msgspec.structs.replace(two, model=f"other{n}", manifest=two.manifest + b" " * 100_000) for n in range(8)
        )
        rig.edge.peer.send(Assign(3, (two,), more=True))
        rig.edge.peer.send(Assign(4, (one,), more=True))
        await asyncio.sleep(2)
        assert rig.device.slots.generation == 1
        for part in many:
            rig.edge.peer.send(Assign(4, (part,), more=True))
        rig.edge.peer.send(Assign(4, ()))
        await until(lambda: rig.device.slots.generation == 4)
        names = {slot.placement.model for slot in rig.device.slots.held()}
        assert names == {"net", *(f"other{n}" for n in range(8))}
        assert rig.ready(1)
        await asyncio.sleep(1)
        rig.sim.crash("d")
        rig.sim.restart("d")
        await until(lambda: rig.device is not None and len(rig.device.slots.held()) == 9)

    simulate(scenario)
