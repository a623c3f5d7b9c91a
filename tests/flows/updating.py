"""Trees whose devices have two slots that outlive their processes, and images for them."""

from __future__ import annotations

import contextvars
import hashlib
from dataclasses import replace

from msrt import errors
from msrt_device.updater.memory import MemoryBank, MemorySlots
from tests.flows.tree import Tree, until

__all__ = ["UpdatingTree", "grown_updating", "until"]

KEEP = {"update_idle_s": 0.2, "update_trial_s": 20.0}


class UpdatingTree(Tree):
    """`bad`: how many of ten devices cannot run version 2."""

    def __init__(self, seed, bad=0, **shape):
        super().__init__(seed, device_config={**KEEP, **shape.pop("device_config", {})}, sources=0, **shape)
        self.bad = bad
        self.slots = MemorySlots
        """What devices have that are started from now on."""
        self.banks = {}
        self.starts = []
        """(device, version) of every process that was started."""

    def is_bad(self, name):
        return list(self.devices).index(name) % 10 < self.bad

    def _device_setup(self, plan, membership):
        setup = super()._device_setup(plan, membership)
        bank = self.banks.setdefault(plan.name, MemoryBank("1"))
        slots = self.slots(bank, bank.start(), lambda: self.restart(plan.name))
        version = slots.state().running.version
        self.starts.append((plan.name, version))
        if version == "2" and self.is_bad(plan.name):
            raise errors.LocalError("this machine cannot run version 2")
        return replace(setup, slots={"agent": slots}, agent=version)

    def restart(self, name):
        """Its process ends, and the next one begins."""
        context = contextvars.Context()
        self.sim.loop.call_soon(self.sim.crash, name, context=context)
        self.sim.loop.call_later(0.3, self.sim.restart, name, context=context)

    async def push_image(self, version, data=b""):
        data = data or hashlib.sha256(version.encode()).digest() * 100
        digest = await self.upload(data)
        await self.insist("update.push", digest=digest, kind="agent", version=version)
        return f"agent@{version}"

    async def campaign(self, name):
        return (await self.insist("update.status", name=name))[0]

    def versions(self):
        """What each device would start now."""
        return {name: bank.held[bank.current].version for name, bank in self.banks.items()}

    async def told(self):
        """Outcomes that the cloud was told, by device, in order."""
        out, after = {}, 0
        while found := (await self.insist("events.after", after=after, wait_s=0.0))["events"]:
            after = found[-1]["offset"]
            for event in found:
                if event["source"] == "updater":
                    out.setdefault(event["name"], []).append(event["data"]["outcome"])
        return out


def grown_updating(scenario, seed=1, limit=900.0, **shape):
    """Run `scenario(tree)` in a grown tree; the tree's log as bytes."""
    tree = UpdatingTree(seed, **shape)
    with tree.sim as sim:

        async def run():
            await tree.grow()
            await until(lambda: len(list(tree.cloud.fleet.living())) == len(tree.devices), what="the cloud knows them")
            await scenario(tree)

        sim.run(run(), until=limit)
        return sim.log_bytes()
