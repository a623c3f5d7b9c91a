import sys

import numpy as np
import pytest
from onnx import StringStringEntryProto, TensorProto, helper

from msrt.errors import InvalidModel, InvalidTensor, ModelFailed
from msrt.inference.engine import Engine
from msrt.inference.measuring import measure, sample_inputs
from msrt.protocol.messages import TensorSpec

from .models import echo_strings, mlp, model_of

ENGINE = Engine()
FLOATS = [("x", TensorProto.FLOAT, ["n"])], [("y", TensorProto.FLOAT, ["n"])]


def test_model_says_what_it_takes_and_gives():
    """Free dimensions are -1, dtypes have their Open Inference Protocol names."""
    model = ENGINE.load(mlp())
    assert model.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert model.outputs == (TensorSpec("y", "FP32", (-1, 3)),)
    assert model.run({"x": np.zeros((5, 4), np.float32)})[0].shape == (5, 3)


def test_a_loaded_model_keeps_no_copy_of_its_file():
    """The session has the weights; onnxruntime's Python half would hold the file as well for as long as it lives."""
    data = mlp()
    before = sys.getrefcount(data)
    model = ENGINE.load(data)
    assert sys.getrefcount(data) == before
    assert model.run({"x": np.zeros((1, 4), np.float32)})[0].shape == (1, 3)


def test_strings_go_through():
    """BYTES in, BYTES out."""
    assert list(ENGINE.load(echo_strings()).run({"text": np.array(["a", "é"], object)})[0]) == ["a", "é"]


def test_bfloat16_goes_through_as_its_bits():
    """In and out, beside other types; without the package that knows it."""
    bf16 = TensorProto.BFLOAT16
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["wide", "by"], ["z"]),
        helper.make_node("Cast", ["z"], ["y"], to=bf16),
    ]
    inputs = [("x", bf16, ["n"]), ("by", TensorProto.FLOAT, ["n"])]
    model = ENGINE.load(
        model_of(nodes, inputs, [("y", bf16, ["n"]), ("z", TensorProto.FLOAT, ["n"])]).SerializeToString()
    )
    assert [spec.dtype for spec in (*model.inputs, *model.outputs)] == ["BF16", "FP32", "BF16", "FP32"]
    given = {"x": np.array([0x3F80, 0xC000], np.uint16), "by": np.array([2, 0.5], np.float32)}  # 1 and -2
    halves, floats = model.run(given)
    assert halves.tolist() == [0x4000, 0xBF80]
    assert floats.tolist() == [2, -1]
    assert model.run({name: array[:0] for name, array in given.items()}, ["y"])[0].shape == (0,)
    sample = sample_inputs(model.inputs, {})
    assert model.run(sample)[0].dtype == np.uint16
    with pytest.raises(InvalidTensor):
        model.run({"x": given["by"], "by": given["by"]})


@pytest.mark.parametrize("data", [b"", b"not a model" * 20, mlp()[:200], mlp()[:-50]])
def test_garbage_and_truncated_files_are_refused(data):
    """Half a model is no model."""
    with pytest.raises(InvalidModel):
        ENGINE.load(data)


@pytest.mark.parametrize(("domain", "operator"), [("", "Frobnicate"), ("my.ops", "Zap")])
def test_unknown_operator_is_named(domain, operator):
    """The sentence says which operator, not only that there is one."""
    data = model_of([helper.make_node(operator, ["x"], ["y"], domain=domain)], *FLOATS).SerializeToString()
    with pytest.raises(InvalidModel, match=f"unknown operator .*{operator}"):
        ENGINE.load(data)


def test_external_weights_are_refused():
    """A model is one file: what lies beside it does not travel."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weight.external_data.append(StringStringEntryProto(key="location", value="w.bin"))
    data = model_of([helper.make_node("Add", ["x", "w"], ["y"])], *FLOATS, [weight]).SerializeToString()
    with pytest.raises(InvalidModel, match="external"):
        ENGINE.load(data)


def test_inputs_that_do_not_fit_are_the_callers_fault():
    """Wrong shape, dtype or name, past all checks before."""
    model = ENGINE.load(mlp())
    for inputs in ({"x": np.zeros((1, 5), np.float32)}, {"x": np.zeros((1, 4))}, {"z": np.zeros((1, 4), np.float32)}):
        with pytest.raises(InvalidTensor):
            model.run(inputs)


def test_model_that_fails_on_good_inputs_is_at_fault():
    """A graph that contradicts itself when it runs is not the caller's error."""
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [7])
    model = ENGINE.load(model_of(nodes, *FLOATS, [shape]).SerializeToString())
    with pytest.raises(ModelFailed):
        model.run({"x": np.zeros(3, np.float32)})


def test_samples_fill_free_dimensions():
    """Known shapes are used, unknown ones are 1, and rows stack where rows are free."""
    specs = (TensorSpec("a", "FP32", (-1, 8)), TensorSpec("t", "BYTES", (-1,)))
    made = sample_inputs(specs, {}, rows=3, batchable=True)
    assert made["a"].shape == (3, 8)
    assert list(made["t"]) == ["", "", ""]
    assert sample_inputs(specs, {"a": (2, 8)})["a"].shape == (2, 8)


def test_measured_time_is_the_median_call():
    """On a clock that says a call takes 2 ms, it takes 2000 us."""
    ticks = iter(range(10_000))
    model = ENGINE.load(mlp())
    assert measure(model, sample_inputs(model.inputs, {}), lambda: next(ticks) * 0.002) == 2000
