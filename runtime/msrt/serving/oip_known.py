"""What was read before and comes again: of the same caller, mostly the same words around other numbers."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from msrt.buffers import Buffer
from msrt.errors import MsrtError
from msrt.inference.tensors import ITEM_BYTES
from msrt.protocol.messages import TensorSpec
from msrt.serving.backend import InferRequest
from msrt.serving.oip_binary import MAX_DIMS, How
from msrt.serving.oip_body import FORMATS, data_decoder, extras, read_body

__all__ = ["MAX_INPUTS", "REMEMBERED", "Plan", "among_known", "plan_of"]

MAX_INPUTS: Final = 64
REMEMBERED: Final = 1024
"""Bytes of the JSON before binary tensors up to which its meaning is remembered ..."""
PLANS: Final = 256
"""... and of so many."""
FLAT: Final = 256 << 10
"""Bytes of a JSON body in which numbers are looked for that way."""


class Plan(NamedTuple):
    """What JSON says beside the tensors: of the same caller, mostly the same words every time."""

    ident: str
    sample: InferRequest
    """Without its frames."""
    sizes: tuple[int, ...]
    how: How | None

    def request(
        self, model: str, version: int, frames: tuple[Buffer, ...], timeout_s: float, trace: str
    ) -> InferRequest:
        """With these frames in it."""
        said = self.sample
        return InferRequest(
            model, said.inputs, frames, min(timeout_s, said.timeout_s), version, said.outputs, trace, said.priority,
            said.sequence, said.sequence_start, said.sequence_end,
        )  # fmt: skip


@functools.lru_cache(PLANS)
def plan_of(head: bytes) -> Plan | None:
    """None where a tensor is in the JSON, has no fixed size, or is at fault: then it is read word by word."""
    asked = read_body(head)
    specs = tuple([TensorSpec(given.name, given.datatype, tuple(given.shape)) for given in asked.inputs])
    names, sizes = {spec.name for spec in specs}, []
    if not 0 < len(specs) == len(names) <= MAX_INPUTS:
        return None
    for spec, given in zip(specs, asked.inputs, strict=True):
        size = ITEM_BYTES.get(spec.dtype, 0) * math.prod(spec.shape)
        if not size or len(spec.shape) > MAX_DIMS or (spec.shape and min(spec.shape) < 0) or given.data:
            return None
        if given.parameters != {"binary_data_size": size} or given.parameters["binary_data_size"] is True:
            return None
        sizes.append(size)
    wanted = tuple([output.name for output in asked.outputs or ()])
    sample = InferRequest("", specs, (), math.inf, 0, wanted)
    return Plan(asked.id or "", sample, tuple(sizes), extras(asked, sample))


class _Numbers(NamedTuple):
    """How the numbers are read of a request that has one input and is known by what stands around them."""

    plan: Plan
    read: Callable[[bytes], list[Any]]
    write: Callable[..., bytes]


def among_known(body: Buffer) -> tuple[Plan, bytes] | None:
    """The plan of a body that differs from others in a flat array of numbers only, and that array as a frame.

    What stands where a JSON value stood, and is one, changes nothing of what is around it: so that is read once. None
    where it was not seen before, or anything is odd: then all of it is read word by word, and the fault is named.
    """
    if type(body) is not bytes or len(body) > FLAT:
        return None
    start = body.find(b"[", body.find(b'"data"'))
    end = body.find(b"]", start) + 1
    around = body[:start], body[end:]
    if len(around[0]) + len(around[1]) > REMEMBERED:
        return None
    if around not in _seen_around:  # once is no habit: who names each request would only be read twice
        if len(_seen_around) >= PLANS:
            _seen_around.clear()
        _seen_around.add(around)
        return None
    known = _numbers(*around)
    if known is None:
        return None
    try:
        return known.plan, known.write(*known.read(body[start:end]))
    except (msgspec.DecodeError, struct.error, OverflowError):
        return None


_seen_around: Final[set[tuple[bytes, bytes]]] = set()
"""What stood around numbers of late."""


@functools.lru_cache(PLANS)
def _numbers(before: bytes, behind: bytes) -> _Numbers | None:
    """None unless an array between these is the data of the one input, flat, and of a type that is numbers."""
    try:
        asked, other = read_body(before + b"[]" + behind), read_body(before + b"[0]" + behind)
        if len(asked.inputs) != 1 or (bytes(asked.inputs[0].data), bytes(other.inputs[0].data)) != (b"[]", b"[0]"):
            return None
        given = asked.inputs[0]
        spec = TensorSpec(given.name, given.datatype, tuple(given.shape))
        kind, count = FORMATS.get(spec.dtype), math.prod(spec.shape)
        if kind is None or given.parameters or len(spec.shape) > MAX_DIMS or min(spec.shape, default=1) < 1:
            return None
        sample = InferRequest("", (spec,), (), math.inf, 0, tuple([output.name for output in asked.outputs or ()]))
        plan = Plan(asked.id or "", sample, (), extras(asked, sample))
    except MsrtError:
        return None
    if count > FLAT:
        return None
    return _Numbers(plan, data_decoder(spec.dtype, 1).decode, struct.Struct(f"<{count}{kind}").pack)
