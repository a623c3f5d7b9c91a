"""Do this device's models answer? What a new agent must show before it is kept."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import numpy as np

from msrt import errors
from msrt.inference.keeper import Keeper
from msrt.inference.measuring import sample_inputs
from msrt.inference.slots import Slot, Slots, SlotState
from msrt.world.world import World

__all__ = ["answering", "self_test"]

LOOK_S: Final = 0.1


def answering(slots: Slots) -> tuple[str, ...]:
    """NAME@VERSION of the models that are ready here."""
    return tuple(sorted(_name(slot) for slot in slots.held() if slot.wanted and slot.state is SlotState.READY))


async def self_test(world: World, keeper: Keeper, wanted: tuple[str, ...], patience_s: float) -> str:
    """Run each of these models once on the inputs that it is warmed up with; what is wrong, empty: nothing.

    One that is assigned no more meanwhile counts for nothing.
    """
    until = world.now() + patience_s
    for name in wanted:
        fault = await _one(world, keeper, name, until)
        if fault:
            return f"{name}: {fault}"
    return ""


async def _one(world: World, keeper: Keeper, name: str, until: float) -> str:
    while True:
        slot = next((slot for slot in keeper.slots.held() if _name(slot) == name and slot.wanted), None)
        if slot is None:
            return ""
        if slot.state is SlotState.FAILED:
            return slot.error or "it failed to load"
        if slot.state is SlotState.READY:
            slot.in_flight += 1  # borrowed: it stays in memory, and is loaded where it gave its memory away
            try:
                if slot.model is not None:
                    fault: str = await world.offload(_run, slot)
                    return fault
            finally:
                keeper.slots.give_back(slot)
            keeper.wanted()
        if world.now() > until:
            return slot.error or f"it is still {slot.state.value}"
        await asyncio.sleep(LOOK_S)


def _run(slot: Slot) -> str:
    """Blocking."""
    manifest, model = slot.manifest, slot.model
    if manifest is None or model is None:
        return "it left"
    try:
        outputs: list[Any] = model.run(sample_inputs(manifest.inputs, manifest.sample))
    except errors.MsrtError as error:
        return error.text
    sound = all(np.isfinite(out).all() for out in outputs if np.issubdtype(out.dtype, np.floating))
    return "" if sound else "its answer is not finite"


def _name(slot: Slot) -> str:
    return f"{slot.placement.model}@{slot.placement.version}"
