"""A region's own rounds between two of the cloud's."""

from __future__ import annotations

import msgspec

from msrt.buffers import Buffer
from msrt.learning.notes import pack, unpack
from msrt.learning.vector import Vector, advance, load
from msrt.protocol.messages import Secured, UpdateMeta

__all__ = ["Stretch"]


class Stretch:
    """Where they began and who took part (local SGD in two levels).

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
        secure = Secured(samples=max(meta.secure.samples for meta in self._metas))
        packed = pack(notes[node] for node in nodes)
        return msgspec.structs.replace(self._metas[-1], nodes=nodes, step=0, notes=packed, secure=secure)
