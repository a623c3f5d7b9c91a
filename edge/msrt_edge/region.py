"""One open round of a region: what came, what the cloud should have, and the region's own rounds in between."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from msrt.buffers import Buffer
from msrt.learning.aggregate import NormGuard, RunningSum
from msrt.learning.compress import open_codec
from msrt.learning.notes import pack, unpack
from msrt.learning.pacing import Durations
from msrt.learning.rounds import RegionRound, Terms
from msrt.learning.vector import Layout, Vector, advance, load
from msrt.protocol.messages import RoundOpen, UpdateMeta

__all__ = ["OpenRound", "Stretch", "terms_of"]


@dataclass(frozen=True)
class Model:
    """What a region knows of a job's model, over all rounds."""

    layout: Layout
    guard: NormGuard
    durations: Durations


@dataclass
class OpenRound:
    """One open round, or one step of it."""

    message: RoundOpen
    began: float
    deadline: float
    round: RegionRound
    sum: RunningSum
    model: Model
    stretch: Stretch | None = None
    """What the steps before this one did, where a region does several."""
    payloads: dict[str, tuple[UpdateMeta, Buffer]] = field(default_factory=dict)
    """By key: what was received and not yet added, refused or counted."""
    outbox: dict[str, tuple[UpdateMeta, Buffer]] = field(default_factory=dict)
    """By key: what the cloud should have; kept until it closed the round."""
    delivered: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        message, layout = self.message, self.model.layout
        self.codec = open_codec(message.compression, layout)
        """Of the devices' updates."""
        self.upward = open_codec(message.plan.upward or message.compression, layout)
        """Of the region's sum."""


class Stretch:
    """A region's own rounds between two of the cloud's (local SGD in two levels): where they began and who took part.

    What goes up in the end is the whole way from there, as the sum of everybody who was in any of them.
    """

    def __init__(self, start: Buffer) -> None:
        self._start = start
        self.weights = start
        self._metas: list[UpdateMeta] = []

    def step(self, meta: UpdateMeta, mean: Vector) -> None:
        """One of them is done. Blocking."""
        self._metas.append(meta)
        self.weights = advance(self.weights, mean)

    def whole(self) -> Vector:
        """The way so far. Blocking."""
        way: Vector = load(self.weights)[1] - load(self._start)[1]
        return way

    def meta(self) -> UpdateMeta:
        """Of the way: everybody once, with the most samples it ever counted; the metrics are the last step's."""
        nodes: dict[str, int] = {}
        notes = {}
        for meta in self._metas:
            notes.update(unpack(meta.notes, meta.nodes))
            for node, samples in meta.nodes.items():
                nodes[node] = max(samples, nodes.get(node, 0))
        nodes = dict(sorted(nodes.items()))
        return msgspec.structs.replace(self._metas[-1], nodes=nodes, step=0, notes=pack(notes[node] for node in nodes))


def terms_of(message: RoundOpen) -> Terms:
    """What the cloud said of the round, for the machine that decides."""
    plan = message.plan
    terms = Terms(since=plan.since, alone=plan.alone, clip=plan.clip, steps=plan.steps, step=plan.step)
    return msgspec.structs.replace(terms, most=message.max_samples) if message.max_samples else terms
