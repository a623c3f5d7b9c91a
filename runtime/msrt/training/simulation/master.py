"""The masters between the cloud and the nodes: what `msrt_edge.training` does, one thing after the other."""

from __future__ import annotations

import abc
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from msrt.buffers import Buffer
from msrt.errors import BadUpdate
from msrt.learning import events as e
from msrt.learning.aggregate import NormGuard, RunningSum, check
from msrt.learning.compress import Codec, ErrorFeedback
from msrt.learning.pacing import Pace
from msrt.learning.rounds import RegionRound, Stretch, Terms
from msrt.learning.rules import Robust, Rule
from msrt.learning.vector import Layout, Vector, load, save
from msrt.protocol.messages import UpdateMeta
from msrt.training.simulation.shape import Shape
from msrt.training.task import Node

__all__ = ["OPEN", "OVER", "Master", "Opened", "Packet", "coming", "grow", "judged"]

OPEN: Final = 0.0
OVER: Final = 1.0
"""The clock of a round has two moments: everybody who comes at all comes at once, then the deadline is over."""


class Packet(NamedTuple):
    """What is sent to a parent."""

    meta: UpdateMeta
    payload: Buffer


Summed = tuple[UpdateMeta, Vector]


class Opened(NamedTuple):
    """A round as the cloud opened it."""

    job: str
    number: int
    layout: Layout
    weights: Vector
    nodes: Sequence[Node]
    """Who takes part."""
    terms: Terms
    """Of regions."""
    rule: Rule
    """Theirs."""
    codecs: tuple[Codec, Codec]
    """Of a node's update, and of a sum."""
    shape: Shape
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


class Master(abc.ABC):
    """`home`: its numbers on each level, from the top. `parent`: the master above, empty for the cloud."""

    def __init__(self, home: tuple[int, ...], upward: Codec, guard: NormGuard, parent: str) -> None:
        self.home, self.parent = home, parent
        self.me = f"m{'-'.join(map(str, home))}/1"
        self._guard = guard
        self._feedback = ErrorFeedback(upward, zlib.crc32(self.me.encode()))

    @abc.abstractmethod
    def round(self, opened: Opened) -> Iterator[Packet]:
        """What goes up: in the end its sum, before it what went up alone."""

    def _gather(
        self, opened: Opened, terms: Terms, total: RunningSum | Robust, coming: Iterable[Packet]
    ) -> Generator[Packet, None, Summed | None]:
        """Take what comes, while it is the only one in memory; give what is passed on, then the sum of the rest."""
        names = [node.id for node in opened.nodes]
        pace = Pace(OPEN, OVER, max(1, len(names) // 2))
        machine = RegionRound(
            opened.job, opened.number, opened.layout.size, self.me, names, pace, self._guard, terms
        )  # fmt: skip
        held: dict[str, Packet] = {}
        sealed: UpdateMeta | None = None

        def perform(actions: Iterable[e.RoundAction]) -> Iterator[Packet]:
            nonlocal sealed
            for action in actions:
                match action:
                    case e.Add(key, weight, scale):
                        meta, payload = held.pop(key)
                        total.add(payload, opened.codecs[meta.is_sum], weight, scale)
                    case e.Forward(key):
                        yield held.pop(key)
                    case e.Drop(key, _) | e.Refuse(key, _, _):
                        held.pop(key, None)
                    case e.Tell(node, error):
                        yield Packet(self._told(opened, node, error), b"")
                    case e.SendSum(meta):
                        sealed = meta
                    case _:
                        pass

        for at, packet in enumerate(coming):
            held[str(at)] = packet
            norm, fault = judged(packet, opened.codecs[packet.meta.is_sum])
            yield from perform(machine.handle(e.Arrived(str(at), packet.meta, norm, fault), OPEN))
        yield from perform(machine.handle(e.Tick(), OVER))
        return None if sealed is None else (sealed, total.mean())

    def _told(self, opened: Opened, node: str, error: str) -> UpdateMeta:
        return UpdateMeta(opened.job, opened.number, {node: 1}, self.me, "fp32", 0, error=error)

    def _up(self, opened: Opened, summed: Summed) -> Packet:
        """Compressed for the way up, stamped for who is there."""
        meta, mean = summed
        payload = self._feedback.encode(mean, opened.number)
        return Packet(msgspec.structs.replace(meta, encoding=opened.codecs[1].name, summed_by=self.parent), payload)


class Region(Master):
    """Over nodes."""

    def round(self, opened: Opened) -> Iterator[Packet]:
        """Its own rounds one after the other, where the job has several."""
        steps, size = opened.terms.steps, opened.layout.size
        stretch = Stretch(save(opened.layout, opened.weights)) if steps > 1 else None
        for step in range(steps):
            weights = opened.weights if stretch is None else load(stretch.weights)[1]
            total = Robust(opened.rule, size) if opened.rule.robust else RunningSum(size)
            coming = (opened.train(node, weights, step, self.me) for node in opened.nodes)
            terms = msgspec.structs.replace(opened.terms, step=step)
            summed = yield from self._gather(opened, terms, total, filter(None, coming))
            if summed is None:
                return
            if stretch is None:
                yield self._up(opened, summed)
                return
            stretch.step(*summed)
        assert stretch is not None
        yield self._up(opened, (stretch.meta(), stretch.whole()))


class Upper(Master):
    """Over masters."""

    below: Sequence[Master] = ()

    def round(self, opened: Opened) -> Iterator[Packet]:
        """Their sums become one."""
        terms = Terms(opened.terms.most, alone=opened.terms.alone, sums=True)
        total = RunningSum(opened.layout.size)
        summed = yield from self._gather(opened, terms, total, coming(opened, self.below))
        if summed is not None:
            yield self._up(opened, summed)


def coming(opened: Opened, masters: Sequence[Master]) -> Iterator[Packet]:
    """What these masters send up, one after the other, each asked for its own nodes."""
    below: dict[tuple[int, ...], list[Node]] = {}
    for node in opened.nodes:
        below.setdefault(opened.shape.homes(node.index)[: len(masters[0].home)], []).append(node)
    for master in masters:
        if master.home in below:
            yield from master.round(opened._replace(nodes=below[master.home]))


def grow(shape: Shape, upward: Codec, guard: Callable[[], NormGuard], above: Master | None = None) -> list[Master]:
    """The masters below this one, or below the cloud, with all below them; `guard` makes one for each."""
    home = above.home if above is not None else ()
    me = above.me if above is not None else ""
    found: list[Master] = []
    for at in range(shape.masters[len(home)]):
        path = (*home, at)
        if len(path) == len(shape.masters):
            found.append(Region(path, upward, guard(), me))
            continue
        upper = Upper(path, upward, guard(), me)
        upper.below = grow(shape, upward, guard, upper)
        found.append(upper)
    return found
