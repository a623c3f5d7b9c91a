"""The server's optimisers: what it makes of an update on its way into the model.

To the server the mean update of a round is the negative of a gradient (Reddi 2021, "Adaptive Federated Optimization"),
so whatever descends can apply it; a parameter server hands in minus a gradient. With `d` the update and `w` the model:

sgd       w += rate d                                                                       FedAvg, where rate is 1
momentum  v = momentum v + d;  w += rate v  (nesterov: rate (d + momentum v))                FedAvgM, Hsu 2019
adam      m = b1 m + (1 - b1) d;  v = b2 v + (1 - b2) d d;        w += rate m / (sqrt v + epsilon)    FedAdam
yogi      as adam, but v -= (1 - b2) d d sign(v - d d)                                                FedYogi
adagrad   as adam, but v += d d                                                                       FedAdagrad

Where the sources differ: Reddi begins with v = epsilon^2 and corrects no bias; with `bias_correction` it is Kingma
2015, which begins with v = 0. Flower begins with v = 0 and corrects the bias of the rate alone, not that of epsilon.

Work goes by spans that stay in the cache, in float32, and is the same element by element wherever a vector is cut: a
parameter server may have a part of the model each, with an `Optimiser` of that part.
"""

from __future__ import annotations

import math
from typing import Final, Literal, TypeAlias

import msgspec
import numpy as np

from msrt.buffers import Buffer, joined, room_for
from msrt.errors import Corrupt, InvalidJob
from msrt.learning.vector import Vector, peek

__all__ = ["ADAPTIVE", "Kind", "Optimiser", "Recipe", "moved"]

Kind: TypeAlias = Literal["sgd", "momentum", "adam", "yogi", "adagrad"]
ADAPTIVE: Final = frozenset({"adam", "yogi", "adagrad"})
SPAN: Final = 1 << 15
"""Elements handled at once: the model, the update, two moments and scratch of them lie in 1 MiB."""
MAGIC: Final = b"MSRTOPT1"
HEADER_LIMIT: Final = 4096


class Recipe(msgspec.Struct, frozen=True):
    """Which of them, and its constants."""

    kind: Kind = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-3
    """Reddi's tau: the degree of adaptivity; the smaller, the more."""
    bias_correction: bool = False

    @property
    def first(self) -> tuple[float, ...]:
        """What each vector of the state is filled with at first."""
        if self.kind == "sgd":
            return ()
        return (0.0,) if self.kind == "momentum" else (0.0, 0.0 if self.bias_correction else self.epsilon**2)


class _Header(msgspec.Struct, frozen=True):
    """Of a saved state."""

    kind: str
    model: str
    """Digest of the layout."""
    steps: int
    size: int


class Optimiser:
    """One vector's (a model's, or a shard's). `vectors` and `steps` are its state; both are saved."""

    def __init__(self, recipe: Recipe, size: int) -> None:
        self.recipe, self.size, self.steps = recipe, size, 0
        self.vectors: tuple[Vector, ...] = tuple(np.full(size, value, np.float32) for value in recipe.first)

    def step(self, weights: Vector, update: Vector, rate: float, out: Vector | None = None) -> None:
        """Move the weights by one update, into `out` (in place where it is left out or `weights`). Blocking.

        Raises InvalidJob for an update of another size.
        """
        if not weights.size == update.size == self.size:
            raise InvalidJob(f"an update of {update.size} elements, the model has {self.size}")
        out = weights if out is None else out
        self.steps += 1
        factor, epsilon = self._corrected(rate)
        room = np.empty((2, min(max(self.size, 1), SPAN)), np.float32)
        for start in range(0, self.size, SPAN):
            span = slice(start, min(start + SPAN, self.size))
            move = self._move(update[span], [vector[span] for vector in self.vectors], epsilon, room)
            np.multiply(move, factor, out=room[0, : move.size])
            np.add(weights[span], room[0, : move.size], out=out[span])

    def _corrected(self, rate: float) -> tuple[np.float32, np.float32]:
        """(rate, epsilon), so that m and v need no correction of their own (Kingma 2015, end of section 2)."""
        recipe = self.recipe
        if recipe.kind not in ADAPTIVE or not recipe.bias_correction:
            return np.float32(rate), np.float32(recipe.epsilon)
        first = 1.0 - recipe.beta1**self.steps
        second = 1.0 if recipe.kind == "adagrad" else math.sqrt(1.0 - recipe.beta2**self.steps)
        return np.float32(rate * second / first), np.float32(recipe.epsilon * second)

    def _move(self, update: Vector, state: list[Vector], epsilon: np.float32, room: Vector) -> Vector:
        """What rate is multiplied with, of one span."""
        recipe = self.recipe
        if recipe.kind == "sgd":
            return update
        part = room[0, : update.size]
        if recipe.kind == "momentum":
            (velocity,) = state
            np.multiply(velocity, np.float32(recipe.momentum), out=velocity)
            np.add(velocity, update, out=velocity)
            if not recipe.nesterov:
                return velocity
            np.multiply(velocity, np.float32(recipe.momentum), out=part)
            return np.add(part, update, out=part)
        mean, square = state
        if recipe.beta1:
            np.multiply(mean, np.float32(recipe.beta1), out=mean)
            np.multiply(update, np.float32(1.0 - recipe.beta1), out=part)
            np.add(mean, part, out=mean)
        else:
            np.copyto(mean, update)
        self._spread(square, update, room)
        np.sqrt(square, out=part)
        np.add(part, epsilon, out=part)
        return np.divide(mean, part, out=part)

    def _spread(self, square: Vector, update: Vector, room: Vector) -> None:
        """The second moment after this update."""
        recipe, part, other = self.recipe, room[0, : update.size], room[1, : update.size]
        np.multiply(update, update, out=part)
        if recipe.kind == "adagrad":
            np.add(square, part, out=square)
            return
        rest = np.float32(1.0 - recipe.beta2)
        if recipe.kind == "yogi":
            np.subtract(square, part, out=other)
            np.sign(other, out=other)
            np.multiply(part, other, out=part)
            np.multiply(part, rest, out=part)
            np.subtract(square, part, out=square)
            return
        np.multiply(square, np.float32(recipe.beta2), out=square)
        np.multiply(part, rest, out=part)
        np.add(square, part, out=square)

    def save(self, model: str) -> Buffer:
        """The state as bytes, a copy; `model` is the digest of the layout that it belongs to. Blocking."""
        header = msgspec.json.encode(_Header(self.recipe.kind, model, self.steps, self.size))
        header += b" " * (-(len(MAGIC) + 4 + len(header)) % 64)
        parts = [vector.astype("<f4", copy=False).data.cast("B") for vector in self.vectors if vector.size]
        return joined((MAGIC, len(header).to_bytes(4, "little"), header, *parts))

    @classmethod
    def load(cls, data: Buffer, recipe: Recipe, model: str) -> Optimiser:
        """From what `save` gave; the bytes are copied. Raises Corrupt when they are anything else. Blocking."""
        view = memoryview(data)
        length = int.from_bytes(view[len(MAGIC) : len(MAGIC) + 4], "little")
        start = len(MAGIC) + 4 + length
        if bytes(view[: len(MAGIC)]) != MAGIC or length > HEADER_LIMIT or start > len(view):
            raise Corrupt("these bytes are no optimiser's state")
        try:
            header = msgspec.json.decode(view[len(MAGIC) + 4 : start], type=_Header)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Corrupt(f"the header of an optimiser's state is broken: {error}") from error
        if header.kind != recipe.kind or header.model != model:
            raise Corrupt(f"the state of {header.kind} of another model or job", hint="start the job anew")
        count = len(recipe.first)
        if header.size < 0 or header.steps < 0 or len(view) - start != 4 * header.size * count:
            raise Corrupt(f"an optimiser's state of {len(view)} bytes for {header.size} parameters")
        values = np.frombuffer(view, "<f4", offset=start)
        if not np.isfinite(values).all():
            raise Corrupt("an optimiser's state that is not finite")
        found = cls.__new__(cls)
        found.recipe, found.size, found.steps = recipe, header.size, header.steps
        found.vectors = tuple(values[at * header.size : (at + 1) * header.size].copy() for at in range(count))
        return found


def moved(
    recipe: Recipe, weights: Buffer, state: Buffer, update: Vector, rate: float, room: memoryview | None = None
) -> tuple[Buffer, Buffer]:
    """(the model file, the optimiser's state) one update later; no state begins a new one. Blocking.

    Neither of what it is given is touched: who dies before both are written down begins again with the same.
    `room`: as many bytes as the weights, where the file is made. Raises Corrupt, InvalidJob.
    """
    layout, start = peek(weights)
    flat = np.frombuffer(weights, "<f4", offset=start)
    optimiser = Optimiser.load(state, recipe, layout.digest) if state else Optimiser(recipe, layout.size)
    room = room_for(len(weights)) if room is None else room
    room[:start] = weights[:start]
    optimiser.step(flat, update, rate, out=np.frombuffer(room, "<f4", offset=start))
    return room, (optimiser.save(layout.digest) if recipe.first else b"")
