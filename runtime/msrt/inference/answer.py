"""From a request's frames to an answer's frames: the hot path of a device. Blocking, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from msrt.buffers import Buffer
from msrt.errors import InvalidTensor, ModelFailed, SequenceLost
from msrt.inference.sequences import Step
from msrt.inference.slots import Slot, Slots
from msrt.inference.tensors import array_of, frame_of, has_nan
from msrt.protocol.messages import Infer, Inferred, TensorSpec

__all__ = ["answer", "infer", "run_slot"]

_WATCHED: Final = 32
"""The first answers of a version are all looked through for NaN, a canary's most of all ..."""
_EVERY: Final = 64
"""... then one in so many: looking costs as much as a small model."""


def infer(
    slots: Slots, message: Infer, frames: Sequence[Buffer], *, device: str, now: Callable[[], float]
) -> tuple[Inferred, list[Buffer]]:
    """Answer on the spot. Where a model is slow, borrow the slot, offload `answer`, and give the slot back.

    Raises NotFound, Unavailable, InvalidTensor (all the caller's to handle) and ModelFailed.
    """
    slot = slots.borrow(message.model, message.version)
    try:
        return answer(slot, message, frames, device=device, now=now)
    finally:
        slots.give_back(slot)


def answer(
    slot: Slot,
    message: Infer,
    frames: Sequence[Buffer],
    *,
    device: str,
    now: Callable[[], float],
    step: Step | None = None,
) -> tuple[Inferred, list[Buffer]]:
    """Check, run, and describe the outputs; counts into the slot. `step`: where the model keeps state."""
    signature = slot.signature
    assert signature is not None
    if message.sequence and step is None and slot.keeps_state:
        raise SequenceLost(f"no sequences of {message.model} are kept here")
    begun = now()
    rows = signature.check(message.inputs, frames)
    if message.outputs:
        signature.check_outputs(message.outputs)
    _check_riders(message, rows, rides=signature.batchable or signature.rowwise)
    inputs = {spec.name: array_of(spec, frame, bits=True) for spec, frame in zip(message.inputs, frames, strict=True)}
    names = message.outputs or signature.output_names
    before = slot.requests
    slot.requests += len(message.ids)
    try:
        arrays = run_slot(slot, inputs, names, rows) if step is None else step.run(inputs, names)
    except ModelFailed:
        slot.failures += len(message.ids)
        raise
    if (before < _WATCHED or slot.requests // _EVERY != before // _EVERY) and any(map(has_nan, arrays)):
        slot.failures += 1
    dtypes = signature.output_dtypes
    outputs = tuple([TensorSpec(name, dtypes[name], a.shape) for name, a in zip(names, arrays, strict=True)])
    reply = Inferred(
        ids=message.ids,
        rows=message.rows,
        model=message.model,
        version=slot.placement.version,
        variant=slot.variant,
        device=device,
        outputs=outputs,
        compute_us=int((now() - begun) * 1e6),
    )
    return reply, [frame_of(array) for array in arrays]


def run_slot(slot: Slot, inputs: dict[str, NDArray[Any]], names: Sequence[str], rows: int) -> list[NDArray[Any]]:
    """Run a ready slot on checked arrays; row by row where the graph's axis 0 is fixed at 1."""
    model, signature = slot.model, slot.signature
    if model is None or signature is None:
        raise ModelFailed(f"{slot.placement.model}@{slot.placement.version} is not loaded")
    if rows == 1 or not signature.rowwise:
        return model.run(inputs, names)
    single = [model.run({name: a[row : row + 1] for name, a in inputs.items()}, names) for row in range(rows)]
    return [np.concatenate(parts) for parts in zip(*single, strict=True)]


def _check_riders(message: Infer, rows: int, *, rides: bool) -> None:
    riders = len(message.ids)
    if len(message.rows) != riders or not riders:
        raise InvalidTensor(f"{riders} requests with the rows of {len(message.rows)}")
    if not rides:
        if riders > 1:
            raise InvalidTensor(f"requests for {message.model} cannot ride together: its axis 0 is not free")
    elif sum(message.rows) != rows or min(message.rows) < 1:
        raise InvalidTensor(f"requests of {list(message.rows)} rows do not add up to the {rows} that came")
