"""A model between two graphs: what goes in, what comes out, what is refused, whose state is kept."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from msrt.errors import InvalidModel, InvalidTensor
from msrt.inference.bundle import StateTensor
from msrt.inference.engine import Engine
from msrt.inference.pipeline import Graphs, Pipeline, assemble, join
from msrt.protocol.messages import TensorSpec

from .models import best, coupled, mlp, model_of, scale

ENGINE = Engine()


def total() -> bytes:
    """Adds what it is given to what it has."""
    spec = [TensorProto.FLOAT, ["n", 4]]
    nodes = [helper.make_node("Add", ["x", "before"], ["y"]), helper.make_node("Identity", ["y"], ["after"])]
    return model_of(nodes, [("x", *spec), ("before", *spec)], [("y", *spec), ("after", *spec)]).SerializeToString()


def test_it_takes_what_the_first_takes_and_gives_what_the_last_gives():
    """The numbers are those of the three run one after the other."""
    whole = assemble(ENGINE, Graphs(mlp(), scale(), best()))
    assert isinstance(whole, Pipeline)
    assert [(spec.name, spec.dtype) for spec in whole.inputs] == [("raw", "INT8")]
    assert [(spec.name, spec.dtype) for spec in whole.outputs] == [("p", "FP32"), ("class", "INT64")]
    raw = np.array([[1, -2, 3, 100], [0, 5, -90, 7]], np.int8)
    (scores,) = ENGINE.load(mlp()).run({"x": raw.astype(np.float32) * np.float32(0.01)})
    found, classes = whole.run({"raw": raw})
    assert np.array_equal(classes, scores.argmax(axis=1))
    assert np.allclose(found, np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True), atol=1e-6)


def test_a_wanted_output_is_one_of_the_last():
    """In the order in which they are wanted."""
    whole = assemble(ENGINE, Graphs(mlp(), scale(), best()))
    raw = np.ones((1, 4), np.int8)
    classes, found = whole.run({"raw": raw}, ["class", "p"])
    assert (classes.dtype, found.dtype) == (np.int64, np.float32)
    assert len(whole.run({"raw": raw}, ["p"])) == 1


@pytest.mark.parametrize("graphs", [Graphs(mlp(), scale()), Graphs(mlp(), b"", best())])
def test_one_stage_is_enough(graphs):
    """Before, or after."""
    whole = assemble(ENGINE, graphs)
    (spec,) = whole.inputs
    dtype = np.int8 if spec.dtype == "INT8" else np.float32
    assert len(whole.run({spec.name: np.ones((2, 4), dtype)})) == len(whole.outputs)


def test_without_stages_there_is_no_pipeline():
    """Nothing is paid for what is not there."""
    assert not isinstance(assemble(ENGINE, Graphs(mlp())), Pipeline)


def test_single_tensors_need_not_share_a_name():
    """Where there is one of each, there is one way to join them."""
    whole = assemble(ENGINE, Graphs(mlp(), scale(gives="scaled"), best(given="scores")))
    assert whole.run({"raw": np.ones((1, 4), np.int8)}, ["class"])[0].shape == (1,)


def test_state_stays_with_the_model():
    """Between the stages, from step to step; a lone question begins with zeros."""
    whole = assemble(ENGINE, Graphs(total(), scale()), (StateTensor("before", "after", "FP32", (-1, 4)),))
    assert [pair.input for pair in whole.pairs] == ["before"]
    raw = np.full((1, 4), 100, np.int8)
    (one,), kept = whole.step({"raw": raw})
    (two,), _ = whole.step({"raw": raw}, (), kept)
    assert (one[0, 0], two[0, 0]) == (1.0, 2.0)
    assert whole.run({"raw": raw})[0][0, 0] == 1.0


@pytest.mark.parametrize(
    ("graphs", "why"),
    [
        (Graphs(mlp(), scale(width=5)), r"pre-processing graph gives x FP32 \[-1, 5\], the model takes x FP32"),
        (Graphs(mlp(), b"", best(width=4)), r"the model gives y FP32 \[-1, 3\], the post-processing graph takes y"),
        (Graphs(mlp(), best(width=4)), "the model takes 'x', which the pre-processing graph does not give"),
        (Graphs(mlp(), b"not a graph"), "not an ONNX model"),
    ],
)
def test_what_does_not_fit_is_named(graphs, why):
    """Which graph, which tensor."""
    with pytest.raises(InvalidModel, match=why):
        assemble(ENGINE, graphs)


def test_outputs_that_nobody_takes_are_left_out():
    """They are not even computed."""
    given = (TensorSpec("a", "FP32", (-1,)), TensorSpec("b", "INT8", (-1,)))
    assert join("one", given, "other", (given[1],)) == (("b",), ("b",))


def test_the_callers_fault_is_the_callers():
    """What the first does not take is an InvalidTensor, as without stages."""
    whole = assemble(ENGINE, Graphs(coupled(), scale()))
    with pytest.raises(InvalidTensor):
        whole.run({"raw": np.ones((1, 7), np.int8)})
