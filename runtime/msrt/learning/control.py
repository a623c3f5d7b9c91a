"""Control variates beside a model (SCAFFOLD, Karimireddy 2020): slots `control/NAME` behind the model's own.

They travel, are summed and compressed as the model's tensors are. Only how a round's mean moves them differs: the
server's control is the mean of the nodes' own, over all nodes that ever took part, so the mean change of those of one
round counts by their share. The paper counts nodes; here each counts by its samples, in the model and in the control.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from msrt.buffers import Buffer
from msrt.learning.optimise import Recipe, moved
from msrt.learning.vector import Layout, Vector, load, save

__all__ = ["CONTROL", "Shares", "moved_with_control", "parts", "steered"]

CONTROL: Final = "control/"


class Shares(msgspec.Struct, frozen=True):
    """Samples of the nodes of one round, of all before it, and of all after it."""

    round: float
    before: float
    after: float


def parts(layout: Layout) -> tuple[Layout, Layout]:
    """(the model's slots, the controls)."""
    model = tuple(slot for slot in layout.slots if not slot.name.startswith(CONTROL))
    return Layout(model), Layout(layout.slots[len(model) :])


def moved_with_control(
    recipe: Recipe, weights: Buffer, state: Buffer, update: Vector, rate: float, shares: Shares,
    room: memoryview | None = None,
) -> tuple[Buffer, Buffer]:  # fmt: skip
    """As `optimise.moved`, which moves the model alone. A node that is new comes with a control of zero. Blocking."""
    del room
    layout, flat = load(weights)
    model, _ = parts(layout)
    body, state = moved(recipe, save(model, flat[: model.size]), state, update[: model.size], rate)
    control = steered(flat[model.size :], update[model.size :], shares)
    return save(layout, np.concatenate([load(body)[1], control])), state


def steered(control: Vector, update: Vector, shares: Shares) -> Vector:
    """The server's control after a round with this mean change of the nodes' own, a new vector."""
    fresh = control * np.float32(shares.before / shares.after)
    fresh += update * np.float32(shares.round / shares.after)
    return fresh
