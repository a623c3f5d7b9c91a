"""What a biased codec left out is added to the next vector (error feedback, Karimireddy 2019)."""

from __future__ import annotations

import numpy as np

from msrt.buffers import SLICE, Buffer, joined, room_for
from msrt.errors import BadUpdate, Corrupt
from msrt.learning.compress.codec import Codec, slices
from msrt.learning.vector import Vector

__all__ = ["ErrorFeedback", "change"]


class ErrorFeedback:
    """One sender's of one job: a codec, what it left out so far, and what it carries on.

    The sender saves it with its checkpoint (`save`, `load`): without it a biased codec drifts. What was left out stays
    while the sender sits rounds out, and goes into its next update; a sender that leaves the job takes it along. An
    unbiased codec leaves nothing to remember: `empty`.
    """

    def __init__(self, codec: Codec, seed: int = 0) -> None:
        self.codec, self.seed = codec, seed
        self.residual: Vector = np.zeros(codec.size if codec.biased else 0, np.float32)
        self.memory = codec.first_memory()

    @property
    def empty(self) -> bool:
        """There is nothing to save."""
        return not self.codec.biased and not self.codec.memory_size

    def encode(self, flat: Vector, turn: int = 0, *, lent: bool = False, room: memoryview | None = None) -> Buffer:
        """The payload of `flat` plus what was left out before. The same `turn` rolls the same dice.

        `lent`: the payload may be `flat` itself, which nobody changes while it is needed. `room`: where it is made
        otherwise, of its length. Raises BadUpdate when the sum is not finite; the residual then stays as it was.
        """
        codec = self.codec
        if flat.size != codec.size:
            raise BadUpdate(f"an update of {flat.size} elements after one of {codec.size}")
        if lent and not codec.biased and (ready := codec.as_it_is(flat)) is not None:
            return ready
        payload = room
        if payload is None:
            payload = room_for(codec.bytes) if codec.bytes > SLICE else memoryview(bytearray(codec.bytes))
        rng = np.random.Generator(np.random.SFC64([self.seed & 0xFFFF_FFFF_FFFF_FFFF, turn]))
        if not codec.biased:
            codec.write(flat, payload, None, self.memory, rng)
            return payload.toreadonly()
        total, memory = np.empty(codec.size, np.float32), self.memory.copy()
        for span in slices(codec.size):
            np.add(flat[span], self.residual[span], out=total[span])
        codec.write(total, payload, total, memory, rng)
        self.residual, self.memory = total, memory
        return payload.toreadonly()

    def save(self) -> Buffer:
        parts = [part.astype("<f4", copy=False).data.cast("B") for part in (self.residual, self.memory) if part.size]
        return joined(parts)

    @classmethod
    def load(cls, data: Buffer, codec: Codec, seed: int = 0) -> ErrorFeedback:
        """Raises Corrupt when the bytes are not what such a sender saved."""
        feedback = cls(codec, seed)
        size = feedback.residual.size
        if len(data) != 4 * (size + codec.memory_size):
            raise Corrupt(f"an error feedback of {len(data)} bytes for {codec.size} parameters as {codec.name}")
        values = np.frombuffer(data, "<f4")
        if not np.isfinite(values).all():
            raise Corrupt("an error feedback that is not finite")
        feedback.residual, feedback.memory = values[:size].copy(), values[size:].copy()
        return feedback


def change(codec: Codec, have: Vector, weights: Vector, turn: int, out: Vector) -> Buffer:
    """The payload of the way from what receivers have to the weights; `out` becomes what they have once they followed
    it. Blocking.

    What the codec left out is in the next change: that begins with what they have.
    """
    payload = ErrorFeedback(codec).encode(np.subtract(weights, have, out=out), turn)
    np.copyto(out, have)
    codec.add(payload, 1.0, out)
    return payload
