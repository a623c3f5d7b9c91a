"""State between the requests of a sequence: kept, never mixed, never silently fresh."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from msrt.errors import InvalidModel, InvalidTensor, Overloaded, SequenceLost
from msrt.inference.answer import answer, infer
from msrt.inference.bundle import StateTensor
from msrt.inference.engine import Engine
from msrt.inference.sequences import GRACE_S, Sequences
from msrt.inference.slots import Slots
from msrt.inference.stateful import StatefulModel
from msrt.protocol.messages import Infer, TensorSpec

from .models import manifest_of, model_of, placed

PAIR = StateTensor("sum", "sum_next", "FP32", (-1, 2))


def adder() -> bytes:
    """Adds x to the sum so far: that is its answer, and the next sum."""
    nodes = [helper.make_node("Add", ["x", "sum"], ["y"]), helper.make_node("Identity", ["y"], ["sum_next"])]
    shape = [TensorProto.FLOAT, ["n", 2]]
    inputs, outputs = [("x", *shape), ("sum", *shape)], [("y", *shape), ("sum_next", *shape)]
    return model_of(nodes, inputs, outputs).SerializeToString()


ADDER = adder()
MODEL = StatefulModel(Engine().load(ADDER), (PAIR,))


def manifest(version=1):
    spec = TensorSpec("x", "FP32", (-1, 2)), TensorSpec("y", "FP32", (-1, 2))
    return manifest_of(
        {"fp32": ADDER}, version=version, inputs=spec[:1], outputs=spec[1:], batchable=False, state=(PAIR,)
    )


class House:
    """Slots that serve the adder, and the sequences on it."""

    def __init__(self, most=8, limit=1 << 20, idle_s=60.0, drain_s=30.0):
        self.now = 0.0
        self.slots = Slots()
        self.sequences = Sequences(most, limit, idle_s, drain_s)
        self.update(1)

    def update(self, version):
        self.slots.assign(version, [placed(manifest(version))])
        slot = self.slots.next_to_load(0.0)
        self.slots.loading(slot, manifest(version))
        self.slots.ready(slot, "fp32", MODEL, {"fp32": 5})

    def ask(self, name, value, *, start=False, end=False, version=0, rows=1):
        """The sum that it answers."""
        x = np.full((rows, 2), value, np.float32)
        message = Infer(
            (1,), (1,), "net", (TensorSpec("x", "FP32", x.shape),), version, sequence=name,
            sequence_start=start, sequence_end=end,
        )  # fmt: skip
        slot = self.slots.borrow("net", version)
        try:
            step = self.sequences.begin(slot, message, self.now)
            _, frames = answer(slot, message, [x.tobytes()], device="d", now=lambda: self.now, step=step)
            self.sequences.finish(step, self.now)
        finally:
            self.slots.give_back(slot)
        return np.frombuffer(frames[0], np.float32)[0]


def test_a_sequence_goes_on_where_it_stood():
    """Its second step sees what the first one left, and with its end the state is gone."""
    house = House()
    assert [house.ask("s", 1, start=True), house.ask("s", 2), house.ask("s", 3, end=True)] == [1, 3, 6]
    assert (len(house.sequences), house.sequences.size) == (0, 0)
    with pytest.raises(SequenceLost):
        house.ask("s", 1)


def test_an_unknown_sequence_is_lost_never_begun_anew():
    """Nothing is computed for it; begun again it starts from zeros."""
    house = House()
    with pytest.raises(SequenceLost, match="no state is kept"):
        house.ask("s", 1)
    assert house.slots.reports()[0].requests == 0
    house.ask("s", 5, start=True)
    assert house.ask("s", 1, start=True) == 1
    assert house.sequences.lost == 1


def test_a_lone_request_begins_with_zeros_and_leaves_nothing():
    """Beside sequences, which do not notice."""
    house = House()
    house.ask("s", 5, start=True)
    assert [house.ask("", 1), house.ask("", 1), house.ask("s", 1)] == [1, 1, 6]
    assert len(house.sequences) == 1


steps = st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 50), st.booleans(), st.booleans()), max_size=60)


@given(steps)
def test_interleaved_sequences_never_mix(asked):
    """Any order of steps, starts and ends: each sequence sums its own, and only what was begun goes on."""
    house, sums = House(), {}
    for name, value, start, end in asked:
        if start or name in sums:
            sums[name] = (0 if start else sums[name]) + value
            assert house.ask(name, value, start=start, end=end) == sums[name]
            if end:
                del sums[name]
        else:
            with pytest.raises(SequenceLost):
                house.ask(name, value, end=end)
    assert len(house.sequences) == len(sums) == house.slots.serving("net").sequences


def test_a_step_that_is_refused_leaves_the_sequence_as_it_was():
    """Wrong rows for a sequence that began with one: the next right step goes on."""
    house = House()
    house.ask("s", 5, start=True)
    with pytest.raises(InvalidTensor, match="began with 1 rows"):
        house.ask("s", 1, rows=3)
    assert house.ask("s", 1) == 6


def test_a_dropped_step_loses_its_sequence():
    """It was not computed: what follows must not go on as if it had been."""
    house = House()
    house.ask("s", 5, start=True)
    house.sequences.dropped("net", "s", 0)
    with pytest.raises(SequenceLost):
        house.ask("s", 1)
    assert house.sequences.evicted == 1


def test_sequences_are_bounded_in_number_and_those_in_use_are_not_thrown_out():
    """One too many is refused while the others are in use; after a while the least recently used goes."""
    house = House(most=2)
    house.ask("a", 1, start=True)
    house.ask("b", 1, start=True)
    with pytest.raises(Overloaded):
        house.ask("c", 1, start=True)
    house.now = GRACE_S
    house.ask("a", 1)
    assert house.ask("c", 1, start=True) == 1
    with pytest.raises(SequenceLost):
        house.ask("b", 1)
    assert house.ask("a", 1) == 3


def test_sequences_are_bounded_in_bytes():
    """The least recently used is forgotten; what is counted is what is kept."""
    house = House(limit=20)
    house.ask("a", 1, start=True)
    house.ask("b", 1, start=True)
    house.ask("c", 1, start=True)
    assert (len(house.sequences), house.sequences.size) == (2, 16)
    with pytest.raises(SequenceLost):
        house.ask("a", 1)


def test_an_idle_sequence_is_forgotten():
    """After the time that the settings say, whether anybody asks or not."""
    house = House(idle_s=10)
    house.ask("a", 1, start=True)
    house.now = 9.9
    assert house.ask("a", 1) == 2
    house.now = 20.0
    assert house.sequences.drain(house.slots.leaving, house.now)
    assert len(house.sequences) == 0
    with pytest.raises(SequenceLost):
        house.ask("a", 1)


def test_after_an_update_a_running_sequence_ends_on_its_version():
    """New ones begin on the new version; the old one leaves with its last sequence."""
    house = House()
    house.ask("s", 1, start=True, version=1)
    house.update(2)
    assert [m.version for m in house.slots.reports()] == [1, 2]
    assert house.ask("t", 1, start=True) == 1
    assert house.ask("s", 1, version=1) == 2
    assert house.ask("s", 1, version=1, end=True) == 3
    house.slots.settle()
    assert [m.version for m in house.slots.reports()] == [2]
    assert house.ask("t", 1, version=2) == 2


def test_a_replaced_version_does_not_wait_for_ever():
    """When the time to drain is over its sequences are lost, and it leaves."""
    house = House(drain_s=30)
    house.ask("s", 1, start=True, version=1)
    house.update(2)
    for moment in range(0, 60, 2):
        house.now = moment
        if house.sequences.drain(house.slots.leaving, house.now):
            house.slots.settle()
            break
        house.ask("s", 1, version=1)
    assert house.now == 30
    assert [m.version for m in house.slots.reports()] == [2]


def test_who_keeps_no_sequences_says_so():
    """A stateful model asked without a place for states answers lone requests only."""
    house = House()
    message = Infer((1,), (1,), "net", (TensorSpec("x", "FP32", (1, 2)),), sequence="s", sequence_start=True)
    with pytest.raises(SequenceLost):
        infer(house.slots, message, [bytes(8)], device="d", now=lambda: 0.0)


def test_a_pair_that_the_graph_lacks_is_refused():
    """By its name."""
    with pytest.raises(InvalidModel, match="'nope'"):
        StatefulModel(Engine().load(ADDER), (StateTensor("nope", "sum_next", "FP32", (1, 2)),))
