"""Masters between the regions and the cloud die, their children change parents, sums come twice and in disorder."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.learning.aggregate import RunningSum, check
from msrt.learning.compress import open_codec
from msrt.learning.events import Add, Arrived, Closed, Finish, Forward, RoundAction, SendSum, Tick
from msrt.learning.rounds import GlobalRound, Pace, RegionRound, Terms
from msrt.protocol.messages import UpdateMeta

DEVICES = 8
LOW, MIDDLE, HIGH = 4, 3, 2
"""Masters on each level: devices send to low ones, these to middle ones, these to high ones, these to the cloud."""
FP32 = open_codec("fp32", DEVICES)
Packet = tuple[UpdateMeta, bytes]


def _single(index: int) -> bytes:
    """Only element `index` is set: the mean shows who was counted, and how often."""
    return FP32.encode(np.eye(DEVICES, dtype=np.float32)[index])


@dataclass
class Master:
    """One of them. `parent` is where it sends now; what it made it stamps for the first parent that it sends it to."""

    name: str
    level: int
    parent: int = 0
    boot: int = 0
    round: RegionRound | None = None
    total: RunningSum = field(default_factory=lambda: RunningSum(DEVICES))
    outbox: list[Packet] = field(default_factory=list)

    @property
    def me(self) -> str:
        return f"{self.name}/{self.boot}"

    def reboot(self) -> None:
        self.boot += 1
        terms = Terms(sums=self.level > 0)
        self.round = RegionRound("j", 1, DEVICES, self.me, (), Pace(0.0, 1000.0, 99), terms=terms)
        self.total, self.outbox = RunningSum(DEVICES), []


class Tree:
    """One round; every method is one thing that can happen."""

    def __init__(self, samples: list[int]) -> None:
        self.samples = samples
        self.levels = [
            [Master(f"m{level}{at}", level) for at in range(width)] for level, width in enumerate((LOW, MIDDLE, HIGH))
        ]
        for level in self.levels:
            for master in level:
                master.reboot()
        self.stamps: dict[int, str] = {}
        self.network: list[tuple[int, int, Packet]] = []
        """(level, place, packet) of what is under way; level 3 is the cloud."""
        self.finished: Finish | None = None
        self.restart_cloud()

    def restart_cloud(self) -> None:
        """It begins empty, and the highest masters send everything again."""
        if self.finished is None:
            names = [f"d{i}" for i in range(DEVICES)]
            self.cloud = GlobalRound("j", 1, DEVICES, names, Pace(0.0, 1000.0, 1, patience=1e6))
            self.total, self.kept = RunningSum(DEVICES), dict[str, bytes]()
            for master in self.levels[-1]:
                self.network += [(3, 0, packet) for packet in master.outbox]

    def report(self, device: int, at: int) -> None:
        """A device sends its kept update to a low master, stamped by the first it ever sent it to."""
        stamp = self.stamps.setdefault(device, self.levels[0][at % LOW].me)
        meta = UpdateMeta("j", 1, {f"d{device}": self.samples[device]}, stamp, "fp32", DEVICES)
        self._arrive(0, at % LOW, (meta, _single(device)))

    def _arrive(self, level: int, at: int, packet: Packet) -> None:
        meta, payload = packet
        if level == len(self.levels):
            key = f"p{len(self.kept)}"
            self.kept[key] = payload
            self._conclude(self.cloud.handle(Arrived(key, meta, check(payload, FP32)), 3.0))
            return
        master = self.levels[level][at]
        assert master.round is not None
        self._perform(master, master.round.handle(Arrived("k", meta, check(payload, FP32)), 1.0), packet)

    def _perform(self, master: Master, actions: list[RoundAction], packet: Packet | None) -> None:
        for action in actions:
            match action:
                case Add(_, weight):
                    assert packet is not None
                    master.total.add(packet[1], FP32, weight)
                case Forward():
                    assert packet is not None
                    self._up(master, packet)
                case SendSum(meta):
                    above = "" if master.level == 2 else self.levels[master.level + 1][master.parent].me
                    whole = msgspec.structs.replace(meta, encoding="fp32", summed_by=above)
                    self._up(master, (whole, FP32.encode(master.total.mean())))

    def _up(self, master: Master, packet: Packet) -> None:
        master.outbox.append(packet)
        self.network.append((master.level + 1, master.parent, packet))

    def seal(self, level: int, at: int) -> None:
        """Its time is over."""
        master = self._of(level, at)
        assert master.round is not None
        self._perform(master, master.round.handle(Tick(), 2000.0), None)

    def reboot(self, level: int, at: int) -> None:
        """It dies with all it had; its children send again what they kept, to whoever stands there now."""
        self._of(level, at).reboot()
        if level % 3:
            below = self.levels[level % 3 - 1]
            for child in below:
                if child.parent == at % len(self.levels[level % 3]):
                    self.network += [(level % 3, child.parent, packet) for packet in child.outbox]

    def move(self, level: int, at: int, parent: int) -> None:
        """It goes to another parent, and sends it all that it kept."""
        master = self._of(level, at)
        if master.level < 2:
            master.parent = parent % len(self.levels[master.level + 1])
            self.network += [(master.level + 1, master.parent, packet) for packet in master.outbox]

    def _of(self, level: int, at: int) -> Master:
        masters = self.levels[level % 3]
        return masters[at % len(masters)]

    def deliver(self, which: int, *, keep: bool) -> None:
        """Any packet under way arrives, in any order; `keep` leaves a copy to arrive again."""
        if self.network:
            which %= len(self.network)
            level, at, packet = self.network[which] if keep else self.network.pop(which)
            self._arrive(level, at, packet)

    def end(self) -> None:
        self._conclude(self.cloud.handle(Tick(), 5000.0))

    def _conclude(self, actions: list[RoundAction]) -> None:
        for action in actions:
            match action:
                case Add(key, weight):
                    self.total.add(self.kept[key], FP32, weight)
                case Finish():
                    assert self.finished is None
                    self.finished = action
                case _:
                    pass

    def check(self) -> None:
        """The mean is that of exactly the included, each as often as it has samples."""
        assert self.finished is not None
        included = self.finished.included
        whole = sum(self.samples[int(name[1:])] for name in included)
        expected = np.zeros(DEVICES)
        for name in included:
            expected[int(name[1:])] = self.samples[int(name[1:])] / whole
        assert self.total.weight == whole
        assert np.allclose(self.total.mean(), expected, rtol=1e-5, atol=1e-7)


place = st.integers(0, 11)
device = st.integers(0, DEVICES - 1)
steps = st.one_of(
    st.tuples(st.just("report"), device, place),
    st.tuples(st.just("report"), device, place),
    st.tuples(st.just("seal"), place, place),
    st.tuples(st.just("seal"), place, place),
    st.tuples(st.just("deliver"), st.integers(0, 50)),
    st.tuples(st.just("deliver"), st.integers(0, 50)),
    st.tuples(st.just("deliver"), st.integers(0, 50)),
    st.tuples(st.just("repeat"), st.integers(0, 50)),
    st.tuples(st.just("reboot"), place, place),
    st.tuples(st.just("move"), place, place, place),
    st.tuples(st.just("restart_cloud")),
)
many = st.lists(st.integers(1, 500), min_size=DEVICES, max_size=DEVICES)


def _run(tree: Tree, schedule: list[tuple[int | str, ...]]) -> None:
    for name, *numbers in schedule:
        at = [int(number) for number in numbers]
        match name:
            case "deliver":
                tree.deliver(at[0], keep=False)
            case "repeat":
                tree.deliver(at[0], keep=True)
            case _:
                getattr(tree, str(name))(*at)


@settings(max_examples=250)
@given(many, st.lists(steps, max_size=80))
def test_each_node_counts_at_most_once(samples: list[int], schedule: list[tuple[int | str, ...]]) -> None:
    """Any order, duplication, deaths and moves on any level: the mean is that of exactly the included set."""
    tree = Tree(samples)
    _run(tree, schedule)
    tree.end()
    if tree.finished is None:
        assert tree.cloud.reported == 0
        return
    tree.check()


@settings(max_examples=80)
@given(many, st.lists(steps, max_size=60))
def test_what_is_kept_and_sent_again_is_counted(samples: list[int], schedule: list[tuple[int | str, ...]]) -> None:
    """After any trouble, once all devices report again, all seal and everything arrives, nobody is missing."""
    tree = Tree(samples)
    _run(tree, [step for step in schedule if step[0] != "restart_cloud"])
    for at in range(DEVICES):
        tree.report(at, at)
    for level in range(3):
        while any(where <= level for where, _, _ in tree.network):
            tree._arrive(*tree.network.pop(next(i for i, one in enumerate(tree.network) if one[0] <= level)))
        for at in range(len(tree.levels[level])):
            tree.seal(level, at)
    while tree.network:
        tree.deliver(0, keep=False)
    if tree.finished is None:
        tree.end()
    assert tree.finished is not None
    tree.check()
    assert len(tree.finished.included) == DEVICES


def test_a_master_that_moves_costs_nobody_its_update() -> None:
    """Its sum is in the first parent's; the second passes it on, and its own sum, of others, counts as well."""
    tree = Tree([3] * DEVICES)
    tree.move(0, 1, 1)
    for at in (0, 1):
        tree.report(at, at)
    tree.seal(0, 0)
    tree.deliver(0, keep=False)
    tree.seal(1, 0)
    tree.move(0, 0, 1)
    tree.seal(0, 1)
    while any(level < 2 for level, _, _ in tree.network):
        tree._arrive(*tree.network.pop(next(i for i, one in enumerate(tree.network) if one[0] < 2)))
    tree.seal(1, 1)
    while any(level < 3 for level, _, _ in tree.network):
        tree._arrive(*tree.network.pop(next(i for i, one in enumerate(tree.network) if one[0] < 3)))
    tree.seal(2, 0)
    while tree.network:
        tree.deliver(0, keep=False)
    tree.end()
    tree.check()
    assert tree.finished is not None
    assert tree.finished.included.keys() == {"d0", "d1"}


def test_a_device_sends_no_sum() -> None:
    """Where no master is below, a sum is refused; where one is, its closing round forgets."""
    meta = UpdateMeta("j", 1, {"d0": 1, "d1": 1}, "x/1", "fp32", DEVICES, is_sum=True, summed_by="m/1")
    low = RegionRound("j", 1, DEVICES, "m/1", ("d0", "d1"), Pace(0.0, 9.0, 1))
    assert [type(action).__name__ for action in low.handle(Arrived("k", meta), 1.0)] == ["Refuse"]
    high = RegionRound("j", 1, DEVICES, "m/1", ("d0", "d1"), Pace(0.0, 9.0, 1), terms=Terms(sums=True))
    assert [type(action).__name__ for action in high.handle(Arrived("k", meta), 1.0)] == ["Add", "SendSum"]
    assert [type(action).__name__ for action in high.handle(Closed(), 2.0)] == ["Forget"]


def test_a_bad_sum_is_told_for_each_of_its_nodes() -> None:
    """The cloud hears of every node whose update was in it, once."""
    meta = UpdateMeta("j", 1, {"d0": 1, "d1": 1}, "x/1", "fp32", DEVICES, is_sum=True, summed_by="m/1")
    high = RegionRound("j", 1, DEVICES, "m/1", ("d0", "d1", "d2"), Pace(0.0, 9.0, 1), terms=Terms(sums=True))
    for expected in (["Refuse", "Tell", "Tell"], ["Refuse"]):
        actions = high.handle(Arrived("k", meta, fault="not finite"), 1.0)
        assert [type(action).__name__ for action in actions] == expected
