"""Edges die and come back, the cloud restarts, the network repeats and reorders: who is in the sum?"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.learning.aggregate import RunningSum, check
from msrt.learning.compress import open_codec
from msrt.learning.events import Add, Arrived, Drop, Finish, Forward, Hold, Joined, Left, RoundAction, SendSum, Tick
from msrt.learning.rounds import GlobalRound, Pace, RegionRound, Terms
from msrt.protocol.messages import UpdateMeta

DEVICES = 6
EDGES = 3
SIZE = DEVICES
FP32 = open_codec("fp32", SIZE)
Packet = tuple[UpdateMeta, bytes]


def _single(index: int) -> bytes:
    """Only element `index` is set: the mean shows who was counted, and how often."""
    return FP32.encode(np.eye(SIZE, dtype=np.float32)[index])


@dataclass
class Edge:
    name: str
    boot: int = 0
    round: RegionRound | None = None
    total: RunningSum = field(default_factory=lambda: RunningSum(SIZE))
    sent: list[Packet] = field(default_factory=list)
    kept: dict[str, Packet] = field(default_factory=dict)

    def reboot(self, least: int) -> None:
        self.boot += 1
        me = f"{self.name}/{self.boot}"
        self.round = RegionRound("j", 1, SIZE, me, (), Pace(0.0, 1000.0, 99), terms=Terms(least=least))
        self.total, self.sent, self.kept = RunningSum(SIZE), [], {}

    @property
    def me(self) -> str:
        return f"{self.name}/{self.boot}"


class Tree:
    """One round of a small tree; every method is one thing that can happen."""

    def __init__(self, samples: list[int], least: int = 0) -> None:
        self.samples, self.least = samples, least
        self.edges = [Edge(f"e{i}") for i in range(EDGES)]
        for edge in self.edges:
            edge.reboot(least)
        self.stamps: dict[int, str] = {}
        self.network: list[Packet] = []
        self.finished: Finish | None = None
        self.restart_cloud()

    def restart_cloud(self) -> None:
        if self.finished is None:
            names = [f"d{i}" for i in range(DEVICES)]
            pace, terms = Pace(0.0, 1000.0, 1, patience=1e6), Terms(least=self.least)
            self.cloud = GlobalRound("j", 1, SIZE, names, pace, terms=terms)
            self.total, self.kept = RunningSum(SIZE), dict[str, bytes]()
            self.network += [packet for edge in self.edges for packet in edge.sent]

    def report(self, device: int, at: int) -> None:
        """A device sends its kept update to the edge it is with now, stamped by the first it ever sent it to."""
        edge = self.edges[at]
        assert edge.round is not None
        stamp = self.stamps.setdefault(device, edge.me)
        meta = UpdateMeta("j", 1, {f"d{device}": self.samples[device]}, stamp, "fp32", SIZE)
        payload = _single(device)
        key = f"k{len(edge.kept)}"
        edge.kept[key] = (meta, payload)
        actions = edge.round.handle(Joined(f"d{device}"), 1.0)
        actions += edge.round.handle(Arrived(key, meta, check(payload, FP32)), 1.0)
        self._perform(edge, actions)

    def _perform(self, edge: Edge, actions: list[RoundAction]) -> None:
        for action in actions:
            match action:
                case Add(key, weight):
                    edge.total.add(edge.kept[key][1], FP32, weight)
                case Forward(key):
                    edge.sent.append(edge.kept[key])
                    self.network.append(edge.kept[key])
                case SendSum(of):
                    packet = (of, FP32.encode(edge.total.mean()))
                    edge.sent.append(packet)
                    self.network.append(packet)

    def leave(self, device: int, at: int) -> None:
        edge = self.edges[at]
        assert edge.round is not None
        self._perform(edge, edge.round.handle(Left(f"d{device}"), 2.0))

    def seal(self, at: int) -> None:
        edge = self.edges[at]
        assert edge.round is not None
        self._perform(edge, edge.round.handle(Tick(), 2000.0))

    def deliver(self, which: int, *, keep: bool) -> None:
        """Any packet under way arrives, in any order; `keep` leaves a copy to arrive again."""
        if self.network:
            which %= len(self.network)
            meta, payload = self.network[which] if keep else self.network.pop(which)
            key = f"p{len(self.kept)}-{which}-{id(payload)}"
            self.kept[key] = payload
            self._conclude(self.cloud.handle(Arrived(key, meta, check(payload, FP32)), 3.0))

    def end(self) -> None:
        self._conclude(self.cloud.handle(Tick(), 5000.0))

    def _conclude(self, actions: list[RoundAction]) -> None:
        for action in actions:
            match action:
                case Add(key, weight):
                    self.total.add(self.kept[key], FP32, weight)
                case Hold(key):
                    assert key in self.kept
                case Drop(key):
                    self.kept.pop(key, None)
                case Finish():
                    assert self.finished is None
                    self.finished = action


index = st.integers(0, DEVICES - 1)
place = st.integers(0, EDGES - 1)
steps = st.one_of(
    st.tuples(st.just("report"), index, place),
    st.tuples(st.just("report"), index, place),
    st.tuples(st.just("leave"), index, place),
    st.tuples(st.just("seal"), place),
    st.tuples(st.just("reboot"), place),
    st.tuples(st.just("deliver"), st.integers(0, 50)),
    st.tuples(st.just("deliver"), st.integers(0, 50)),
    st.tuples(st.just("repeat"), st.integers(0, 50)),
    st.tuples(st.just("restart_cloud")),
)


@settings(max_examples=400)
@given(
    st.lists(st.integers(1, 500), min_size=DEVICES, max_size=DEVICES),
    st.lists(steps, max_size=60),
    st.sampled_from([0, 0, 2, 3]),
)
def test_each_node_counts_at_most_once(samples: list[int], schedule: list[tuple[str, ...]], least: int) -> None:
    """Any order, duplication, edge death and cloud restart: the mean is that of exactly the included set.

    With `least`, regions hold what comes for a rule that needs so many, and pass fewer on alone.
    """
    tree = Tree(samples, least)
    for step in schedule:
        match step:
            case ("report", device, at):
                tree.report(int(device), int(at))
            case ("leave", device, at):
                tree.leave(int(device), int(at))
            case ("seal", at):
                tree.seal(int(at))
            case ("reboot", at):
                tree.edges[int(at)].reboot(least)
            case ("deliver", which):
                tree.deliver(int(which), keep=False)
            case ("repeat", which):
                tree.deliver(int(which), keep=True)
            case _:
                tree.restart_cloud()
    tree.end()
    if tree.finished is None:
        assert tree.cloud.reported < max(least, 1)
        return
    included = tree.finished.included
    total = sum(samples[int(name[1:])] for name in included)
    expected = np.zeros(SIZE)
    for name in included:
        expected[int(name[1:])] = samples[int(name[1:])] / total
    assert tree.total.weight == total
    assert np.allclose(tree.total.mean(), expected, rtol=1e-5, atol=1e-7)


@settings(max_examples=60)
@given(st.permutations(range(DEVICES)), st.lists(place, min_size=DEVICES, max_size=DEVICES), place)
def test_who_reports_again_after_a_death_is_counted(order: list[int], homes: list[int], dead: int) -> None:
    """An edge dies with everything it had added; its devices report to another, and nobody is missing."""
    tree = Tree([7] * DEVICES)
    for device in order:
        tree.report(device, homes[device])
    tree.edges[dead].reboot(0)
    for device in order:
        if homes[device] == dead:
            tree.report(device, (dead + 1) % EDGES)
    for at in range(EDGES):
        tree.seal(at)
    while tree.network:
        tree.deliver(0, keep=False)
    tree.end()
    assert tree.finished is not None
    assert len(tree.finished.included) == DEVICES
