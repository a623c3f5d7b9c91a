"""A master between the cloud and the nodes: what `msrt_edge.training` does, one thing after the other."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from msrt.buffers import Buffer
from msrt.errors import BadUpdate
from msrt.learning import events as e
from msrt.learning.aggregate import NormGuard, RunningSum, check
from msrt.learning.compress import Codec, ErrorFeedback
from msrt.learning.pacing import Pace
from msrt.learning.rounds import RegionRound, Stretch, Terms
from msrt.learning.vector import Layout, Vector, load, save
from msrt.protocol.messages import UpdateMeta
from msrt.training.task import Node

__all__ = ["OPEN", "OVER", "Master", "Opened", "Packet", "judged"]

OPEN: Final = 0.0
OVER: Final = 1.0
"""The clock of a round has two moments: everybody who comes at all comes at once, then the deadline is over."""


class Packet(NamedTuple):
    """What is sent to the parent."""

    meta: UpdateMeta
    payload: Buffer


class Opened(NamedTuple):
    """A round as the cloud opened it."""

    job: str
    number: int
    layout: Layout
    weights: Vector
    nodes: Sequence[Node]
    """Who takes part."""
    steps: int
    terms: Terms
    train: Callable[[Node, Vector, int, str], Packet | None]
    """A node's update of these weights and this step, stamped for this parent; None: nothing comes of it in time."""


def judged(packet: Packet, codec: Codec) -> tuple[float, str]:
    """(norm, fault) of what came."""
    if packet.meta.error:
        return 0.0, packet.meta.error
    try:
        codec.named(packet.meta.encoding)
        return check(packet.payload, codec), ""
    except BadUpdate as error:
        return 0.0, error.text


class Master:
    """Over nodes. `home` says which of them: their masters, from the top."""

    def __init__(self, home: tuple[int, ...], codecs: tuple[Codec, Codec], guard: NormGuard) -> None:
        self.name = "m" + "-".join(map(str, home))
        self.me = f"{self.name}/1"
        self._codec, self._upward = codecs
        self._guard = guard
        self._feedback = ErrorFeedback(self._upward, zlib.crc32(self.me.encode()))

    def round(self, opened: Opened) -> Iterator[Packet]:
        """What goes up: in the end its sum, before it what went up alone."""
        stretch = Stretch(save(opened.layout, opened.weights)) if opened.steps > 1 else None
        for step in range(opened.steps):
            weights = opened.weights if stretch is None else load(stretch.weights)[1]
            terms = msgspec.structs.replace(opened.terms, steps=opened.steps, step=step)
            total = RunningSum(opened.layout.size)
            sealed = None
            for action, packet in self._one(opened, weights, terms):
                match action:
                    case e.Add(_, weight, scale):
                        total.add(packet.payload, self._codec, weight, scale)
                    case e.Forward():
                        yield packet
                    case e.Tell(node, error):
                        yield Packet(
                            UpdateMeta(opened.job, opened.number, {node: 1}, self.me, "fp32", 0, error=error), b""
                        )
                    case e.SendSum(meta):
                        sealed = meta
                    case _:
                        pass
            if sealed is None:
                return
            if stretch is not None:
                stretch.step(sealed, total.mean())
            else:
                yield self._up(opened.number, sealed, total.mean())
        if stretch is not None:
            yield self._up(opened.number, stretch.meta(), stretch.whole())

    def _one(self, opened: Opened, weights: Vector, terms: Terms) -> Iterator[tuple[e.RoundAction, Packet]]:
        """What follows from each update, while it is the only one in memory, and from the end of the time."""
        names = [node.id for node in opened.nodes]
        pace = Pace(OPEN, OVER, max(1, len(names) // 2))
        machine = RegionRound(
            opened.job, opened.number, opened.layout.size, self.me, names, pace, self._guard, terms
        )  # fmt: skip
        for node in opened.nodes:
            packet = opened.train(node, weights, terms.step, self.me)
            if packet is not None:
                event = e.Arrived(node.id, packet.meta, *judged(packet, self._codec))
                for action in machine.handle(event, OPEN):
                    yield action, packet
        for action in machine.handle(e.Tick(), OVER):
            yield action, Packet(UpdateMeta("", 0, {}, "", "", 0), b"")

    def _up(self, number: int, meta: UpdateMeta, mean: Vector) -> Packet:
        payload = self._feedback.encode(mean, number)
        return Packet(msgspec.structs.replace(meta, encoding=self._upward.name), payload)
