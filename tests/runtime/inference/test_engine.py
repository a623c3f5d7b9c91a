import numpy as np
import pytest
from onnx import StringStringEntryProto, TensorProto, helper

from msrt.errors import InvalidModel, InvalidTensor, ModelFailed
from msrt.inference.engine import Engine, measure, sample_inputs
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


def test_strings_go_through():
    """BYTES in, BYTES out."""
    assert list(ENGINE.load(echo_strings()).run({"text": np.array(["a", "é"], object)})[0]) == ["a", "é"]


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
