import numpy as np
import pytest
from onnx import StringStringEntryProto, TensorProto, helper, load_model_from_string, numpy_helper

from msrt.errors import InvalidModel
from msrt.inference.engine import Engine
from msrt_cloud.graph import float_bytes, fold_dequantised_weights, initialiser_bytes, is_quantised, validate_graph

from .models import classifier, data_file, save

ROWS = [TensorProto.FLOAT, ["n", 4]]


def info_of(tmp_path, data, shapes=None):
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    return validate_graph(path, shapes)


def one(operator, domain="", **attributes):
    node = helper.make_node(operator, ["x"], ["y"], domain=domain, **attributes)
    return save([node], [("x", *ROWS)], [("y", *ROWS)])


def test_good_model_is_described(tmp_path):
    """Tensors, rows, size, operators, and a shape that it ran with."""
    info = info_of(tmp_path, classifier())
    assert (info.inputs[0].shape, info.outputs[0].shape) == ((-1, 16), (-1, 4))
    assert info.batchable
    assert not info.rowwise
    assert not info.quantised
    assert info.parameters == 16 * 64 + 64 * 4
    assert info.sample == {"x": (1, 16)}
    assert info.operators == ("MatMul",)


@pytest.mark.parametrize("data", [b"", b"\x00\x01garbage" * 30, classifier()[:700], classifier()[:-20]])
def test_what_is_no_whole_model_is_refused(tmp_path, data):
    """Empty, garbage, cut short."""
    with pytest.raises(InvalidModel):
        info_of(tmp_path, data)


def test_missing_file_is_refused(tmp_path):
    """A path that leads nowhere is said to."""
    with pytest.raises(InvalidModel, match=r"cannot read gone\.onnx"):
        validate_graph(tmp_path / "gone.onnx")


@pytest.mark.parametrize(("operator", "domain"), [("Frobnicate", ""), ("Zap", "my.ops"), ("Zap", "com.microsoft")])
def test_unknown_operators_are_named(tmp_path, operator, domain):
    """Also one that only claims to be the engine's own."""
    with pytest.raises(InvalidModel, match=f"unknown operator.*{operator}"):
        info_of(tmp_path, one(operator, domain))


def test_unknown_operator_in_a_branch_is_found(tmp_path):
    """Sub-graphs are looked into."""
    value = helper.make_tensor_value_info("y", *ROWS)
    branch = helper.make_graph([helper.make_node("Frobnicate", ["x"], ["y"])], "branch", [], [value])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    data = save([node], [("x", *ROWS), ("c", TensorProto.BOOL, [])], [("y", *ROWS)])
    with pytest.raises(InvalidModel, match="Frobnicate"):
        info_of(tmp_path, data)


@pytest.mark.parametrize("inside", ["initialiser", "constant"])
def test_external_data_is_refused(tmp_path, inside):
    """A weight in another file, wherever it hides, and whether or not that file is there."""
    (tmp_path / "w.bin").write_bytes(bytes(16))
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weight.external_data.append(StringStringEntryProto(key="location", value="w.bin"))
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    if inside == "constant":
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
    data = save(nodes, [("x", *ROWS)], [("y", *ROWS)], [weight] if inside == "initialiser" else [])
    with pytest.raises(InvalidModel, match=r"external file; save it as a single file"):
        info_of(tmp_path, data)


def test_model_that_does_not_run_is_refused(tmp_path):
    """It loads, and contradicts itself on its first input."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [7, 5])
    data = save([helper.make_node("Reshape", ["x", "shape"], ["y"])], [("x", *ROWS)], [("y", *ROWS)], [shape])
    with pytest.raises(InvalidModel, match="does not run on zeros"):
        info_of(tmp_path, data)


def test_model_without_inputs_is_refused(tmp_path):
    """A constant is not a model."""
    value = numpy_helper.from_array(np.zeros(1, np.float32))
    data = save([helper.make_node("Constant", [], ["y"], value=value)], [], [("y", TensorProto.FLOAT, [1])])
    with pytest.raises(InvalidModel, match="no inputs or no outputs"):
        info_of(tmp_path, data)


def test_rows_that_touch_each_other_do_not_ride(tmp_path):
    """Axis 0 is free, but the mean over it couples the rows: each runs alone."""
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], axes=[0]), helper.make_node("Sub", ["x", "m"], ["y"])]
    info = info_of(tmp_path, save(nodes, [("x", *ROWS)], [("y", *ROWS)]))
    assert not info.batchable


def test_fixed_batch_of_one_rides_row_by_row(tmp_path):
    """Axis 0 is exactly 1."""
    spec = [TensorProto.FLOAT, [1, 4]]
    info = info_of(tmp_path, save([helper.make_node("Relu", ["x"], ["y"])], [("x", *spec)], [("y", *spec)]))
    assert info.rowwise
    assert not info.batchable


def test_free_dimensions_are_found_by_trying(tmp_path):
    """A model that needs 16 samples along a free axis is tried with more than one; calibration data says it at once."""
    kernel = numpy_helper.from_array(np.ones((1, 1, 16), np.float32), "k")
    nodes = [helper.make_node("Conv", ["x", "k"], ["y"])]
    data = save(nodes, [("x", TensorProto.FLOAT, ["n", 1, "t"])], [("y", TensorProto.FLOAT, ["n", 1, "u"])], [kernel])
    assert info_of(tmp_path, data).sample == {"x": (1, 1, 16)}
    assert info_of(tmp_path, data, {"x": (1, 1, 40)}).sample == {"x": (1, 1, 40)}


def test_dequantised_weights_are_folded_and_do_not_count_as_quantised():
    """int8 weights that a graph turns into floats itself: a float model, the same after folding."""
    weight = numpy_helper.from_array(np.arange(-8, 8, dtype=np.int8).reshape(4, 4), "q")
    scale = numpy_helper.from_array(np.array([0.1, 0.2, 0.3, 0.4], np.float32), "s")
    zero = numpy_helper.from_array(np.zeros(4, np.int8), "z")
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=1),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    data = save(nodes, [("x", *ROWS)], [("y", *ROWS)], [weight, scale, zero])
    model = load_model_from_string(data)
    assert not is_quantised(model)
    assert initialiser_bytes(model) == 16 + 16 + 4
    fold_dequantised_weights(model)
    assert [node.op_type for node in model.graph.node] == ["MatMul"]
    assert float_bytes(model) == initialiser_bytes(model) == 64
    x = {"x": np.eye(4, dtype=np.float32)}
    before, after = (Engine().load(file).run(x)[0] for file in (data, model.SerializeToString()))
    assert np.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize(
    ("file", "batchable", "quantised"),
    [
        ("kws/kws01_dscnn_fp32.onnx", True, False),
        ("kws/kws01_dscnn_int8.onnx", True, True),
        ("tiny-models/vww01_mobilenet_int8.onnx", True, True),
        ("silero-vad/silero_vad_16k_op15.onnx", False, False),
        ("silero-vad/silero_vad.onnx", False, False),
    ],
)
def test_real_models_are_understood(file, batchable, quantised):
    """MLPerf Tiny's, and a foreign stateful one with branches: which rows ride, which are quantised."""
    info = validate_graph(data_file(*file.split("/")))
    assert (info.batchable, info.quantised) == (batchable, quantised)
