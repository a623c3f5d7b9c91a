"""The numerics of one shard: a range of the model, its optimiser, and both as bytes.

Everything here is blocking numpy work that lets the GIL go: large shards are worked on through `World.offload`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np

from msrt.buffers import Buffer, joined
from msrt.errors import Corrupt
from msrt.learning.compress import Codec, open_codec
from msrt.learning.optimise import Optimiser, Recipe
from msrt.learning.parameter_server.shards import Span
from msrt.learning.vector import Layout, Slot, Vector

__all__ = ["Kept", "Shard", "codec_for", "read_kept"]

MAGIC: Final = b"MSRTSHD1"
HEADER_LIMIT: Final = 4 << 20


class Kept(msgspec.Struct, frozen=True):
    """The head of a shard's bytes."""

    index: int
    span: Span
    progress: float
    """Rounds of the job, as far as this server knew."""
    turn: int
    """Updates of the server."""
    applied: dict[str, int]
    """Worker to the last clock that is in it."""
    state: int = 0
    """Bytes of the optimiser's state; the weights' elements follow."""


class Shard:
    """One range of a model. Its weights are its own copy."""

    def __init__(self, index: int, span: Span, weights: Vector, recipe: Recipe) -> None:
        self.index, self.span = index, span
        self.weights: Vector = np.array(weights, np.float32)
        self.optimiser = Optimiser(recipe, span.size)
        self.changes = 0
        """Grows with every update of it."""
        self._sum: Vector | None = None
        self._weight = 0.0
        self._packed: tuple[int, str, Buffer] = (-1, "", b"")

    # --- pushes: gradients, or the way back from where a worker went -------------------------------------------------

    def add(self, payload: Buffer, codec: Codec, weight: float) -> None:
        """Into the clock's sum. The payload was checked."""
        if self._sum is None:
            self._sum = np.zeros(self.span.size, np.float32)
        codec.add(payload, -weight, self._sum)
        self._weight += weight

    def step(self, rate: float) -> None:
        """Move by the sum's mean; nothing where nothing was added."""
        if self._sum is None:
            return
        self._sum *= np.float32(1.0 / self._weight)
        self.optimiser.step(self.weights, self._sum, rate)
        self._sum, self._weight = None, 0.0
        self.changes += 1

    def apply(self, payload: Buffer, codec: Codec, rate: float) -> None:
        """Move by one payload. It was checked."""
        update: Vector = np.zeros(self.span.size, np.float32)
        codec.add(payload, -1.0, update)
        self.optimiser.step(self.weights, update, rate)
        self.changes += 1

    # --- pulls -----------------------------------------------------------------------------------------------------

    def pulled(self, codec: Codec) -> Buffer:
        """The weights as a payload, a copy; the same one for all who ask between two updates."""
        if self._packed[:2] != (self.changes, codec.name):
            self._packed = (self.changes, codec.name, codec.encode(self.weights))
        return self._packed[2]

    def copy(self) -> Shard:
        """Its weights and its optimiser's state as they are now, without the sum of a clock."""
        other = Shard(self.index, self.span, self.weights, self.optimiser.recipe)
        other.optimiser.steps = self.optimiser.steps
        other.optimiser.vectors = tuple(vector.copy() for vector in self.optimiser.vectors)
        return other

    # --- bytes -------------------------------------------------------------------------------------------------------

    def save(self, progress: float, turn: int, applied: Mapping[str, int]) -> Buffer:
        """All of it but the sum of a clock that is not over, a copy."""
        state = self.optimiser.save(MODEL) if self.optimiser.recipe.first else b""
        kept = Kept(self.index, self.span, progress, turn, dict(applied), len(state))
        header = msgspec.json.encode(kept)
        header += b" " * (-(len(MAGIC) + 4 + len(header)) % 64)
        weights = self.weights.astype("<f4", copy=False).data.cast("B") if self.span.size else b""
        return joined((MAGIC, len(header).to_bytes(4, "little"), header, state, weights))

    @classmethod
    def load(cls, data: Buffer, recipe: Recipe) -> tuple[Shard, Kept]:
        """From what `save` gave. Raises Corrupt."""
        kept, start = read_kept(data)
        view = memoryview(data)
        weights = np.frombuffer(view, "<f4", offset=start + kept.state)
        if not np.isfinite(weights).all():
            raise Corrupt("a shard's weights are not finite")
        shard = cls(kept.index, kept.span, weights, recipe)
        if recipe.first:
            shard.optimiser = Optimiser.load(view[start : start + kept.state], recipe, MODEL)
        return shard, kept


MODEL: Final = "shard"
"""Stands for the model in an optimiser's state: a shard's own head says which range it is."""


def read_kept(data: Buffer) -> tuple[Kept, int]:
    """The head of a shard's bytes, and where what follows it begins. Raises Corrupt."""
    view = memoryview(data)
    at = len(MAGIC)
    length = int.from_bytes(view[at : at + 4], "little")
    start = at + 4 + length
    if bytes(view[:at]) != MAGIC or length > HEADER_LIMIT or start > len(view):
        raise Corrupt("these bytes are no shard")
    try:
        kept = msgspec.json.decode(view[at + 4 : start], type=Kept)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(f"the head of a shard is broken: {error}") from error
    size = kept.span.size
    if size < 0 or kept.state < 0 or len(view) - start != kept.state + 4 * size:
        raise Corrupt(f"a shard of {len(view)} bytes for {size} parameters")
    return kept, start


def codec_for(name: str, span: Span) -> Codec:
    """Of the payloads of one shard: it knows of no tensors, only of elements."""
    return open_codec(name, Layout((Slot("shard", (span.size,), "float32"),)))
