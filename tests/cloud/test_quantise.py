import hashlib
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from msrt.errors import InvalidConfig, InvalidTensor, QualityGate
from msrt.inference.bundle import read_manifest, sign_manifest
from msrt.inference.engine import Engine
from msrt_cloud.prepare import PrepareOptions, prepare_inline
from msrt_cloud.quantise import DYNAMIC, RECIPES, recipes_for

from .models import blobs, classifier, data_file, kws, kws_float, save


@pytest.fixture
def room(tmp_path):
    """A pushed model, its data, and where the files go."""
    x, y = blobs()
    (tmp_path / "out").mkdir()
    (tmp_path / "model.onnx").write_bytes(classifier())
    np.save(tmp_path / "x.npy", x[:100])
    np.savez(tmp_path / "xy.npz", x=x[100:], y=y[100:])
    np.savez(tmp_path / "wrong.npz", x=x[100:], y=(y[100:] + 1) % 4)
    return tmp_path


def pushed(room, model="model.onnx", calibrate="", evaluate="", **options):
    files = {"calibrate": calibrate, "evaluate": evaluate}
    paths = {name: str(room / file) for name, file in files.items() if file}
    return prepare_inline(Path(room / model), room / "out", PrepareOptions(**paths, **options), time.perf_counter)


def test_model_becomes_two_variants_with_numbers(room):
    """fp32 is the file as pushed; int8 is smaller by far, as good, and both are measured."""
    prepared = pushed(room, calibrate="x.npy", evaluate="xy.npz")
    fp32, int8 = prepared.files["fp32"], prepared.files["int8"]
    assert Path(fp32.path).read_bytes() == classifier()
    assert hashlib.sha256(Path(int8.path).read_bytes()).hexdigest() == int8.digest
    assert prepared.report["accuracy_fp32"] == prepared.report["accuracy_int8"] == 1.0
    assert prepared.report["weight_bytes_ratio"] < 0.35
    assert min(fp32.latency_us, int8.latency_us) > 0
    assert prepared.report["chosen"] in ("fp32", "int8")
    assert prepared.batchable
    assert sorted(path.name for path in (room / "out").iterdir()) == ["fp32.onnx", "int8.onnx", "micro.bin"]


def test_prepared_model_fits_a_manifest(room):
    """What the workshop found is what the cloud can sign."""
    manifest = pushed(room, calibrate="x.npy").manifest("digits", 3, ("a", "b"))
    data, _ = sign_manifest(manifest, lambda data: b"s")
    assert read_manifest(data) == manifest
    assert manifest.variants["int8"].method == RECIPES[0].name


def test_without_evaluation_the_variants_are_compared_on_calibration_data(room):
    """The report says how often they agree."""
    assert pushed(room, calibrate="x.npy").report["agreement"] >= 0.98


def test_without_any_data_fp32_serves_alone(room):
    """Nothing to calibrate with and nothing to judge by: no guess is made, and the report says so."""
    prepared = pushed(room)
    assert list(prepared.files) == ["fp32"]
    assert "give --calibrate" in prepared.report["int8"]


def test_required_int8_that_cannot_be_made_refuses_the_push(room):
    """`--require int8` without data."""
    with pytest.raises(QualityGate, match=r"int8 is required and cannot be served.*--calibrate"):
        pushed(room, require="int8")


def test_required_int8_is_all_that_may_serve(room):
    """Whatever is faster."""
    prepared = pushed(room, calibrate="x.npy", require="int8")
    assert prepared.require == prepared.report["chosen"] == "int8"


def test_dynamic_int8_never_lets_rows_ride_in_one_run(room):
    """Its scale spans the batch, so with it every row runs alone: answers do not depend on who rides along."""
    prepared = pushed(room, evaluate="xy.npz", require="int8")
    assert prepared.files["int8"].method == DYNAMIC.name
    assert (prepared.batchable, prepared.rowwise) == (False, True)


def test_model_below_the_least_accuracy_is_refused(room):
    """Against labels that are all wrong nothing is good enough."""
    with pytest.raises(QualityGate, match=r"accuracy of 0\.0000, asked is 0\.5000"):
        pushed(room, evaluate="wrong.npz", min_accuracy=0.5)


def test_int8_that_loses_too_much_is_not_served(room):
    """Calibrated on data of another world: the gate sees it, fp32 serves, and the reason is noted for every recipe."""
    np.save(room / "tiny.npy", blobs()[0][:50] * np.float32(1e-3))
    prepared = pushed(room, calibrate="tiny.npy", evaluate="xy.npz", max_drop=0.0)
    tried = {note["recipe"]: note for note in prepared.report["tried"]}
    assert all("refused" in tried[recipe.name] for recipe in RECIPES)
    assert "int8" not in prepared.files or prepared.files["int8"].method == DYNAMIC.name


def test_fp32_can_be_asked_for_alone(room):
    """`--require fp32` makes no int8, and says that it was not asked for."""
    prepared = pushed(room, calibrate="x.npy", require="fp32")
    assert list(prepared.files) == ["fp32"]
    assert prepared.report["int8"] == "not served: not asked for"


def test_convolutions_are_never_quantised_dynamically():
    """Ten times as slow as float: not even tried."""
    assert recipes_for(("Conv", "MatMul"), calibrated=False) == ()
    assert recipes_for(("Conv", "MatMul"), calibrated=True) == RECIPES
    assert recipes_for(("Gemm",), calibrated=True) == (*RECIPES, DYNAMIC)
    assert recipes_for(("Relu",), calibrated=True) == ()


@pytest.mark.parametrize(
    ("array", "fault"),
    [
        (np.zeros((10, 15), np.float32), r"takes \[-1, 16\], the array is \[10, 15\]"),
        (np.zeros((10, 16), np.complex64), "takes FP32, the array is complex64"),
        (np.zeros((0, 16), np.float32), "at least one"),
        (np.array({"a": 1}, dtype=object), "cannot read"),
    ],
)
def test_calibration_data_that_does_not_fit_is_refused(room, array, fault):
    """Shape, dtype, count; pickled objects are never read."""
    np.save(room / "bad.npy", array, allow_pickle=True)
    with pytest.raises(InvalidTensor, match=fault):
        pushed(room, calibrate="bad.npy")


@pytest.mark.parametrize(
    ("arrays", "fault"),
    [
        ({"x": np.zeros((3, 16), np.float32)}, "no labels"),
        ({"x": np.zeros((3, 16), np.float32), "y": np.zeros(3)}, "labels are whole numbers"),
        ({"x": np.zeros((3, 16), np.float32), "y": np.zeros(4, int)}, "3 samples and 4 labels"),
        ({"q": np.zeros((3, 16), np.float32), "y": np.zeros(3, int)}, r"arrays \['q'\], the model has inputs \['x'\]"),
    ],
)
def test_evaluation_data_that_does_not_fit_is_refused(room, arrays, fault):
    """Each fault in its own words."""
    np.savez(room / "bad.npz", **arrays)
    with pytest.raises(InvalidTensor, match=fault):
        pushed(room, evaluate="bad.npz")


@pytest.mark.parametrize(
    "options", [{"require": "int4"}, {"max_drop": 5.0}, {"min_accuracy": -0.1}, {"min_accuracy": 0.9}]
)
def test_options_out_of_range_are_refused(options):
    """Before anything is started."""
    with pytest.raises(InvalidConfig):
        PrepareOptions(**options)


def test_two_inputs_are_calibrated_by_name(tmp_path):
    """An .npz of arrays by input name; one array for two inputs is refused."""
    weight = numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    nodes = [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("MatMul", ["s", "w"], ["y"])]
    spec = [TensorProto.FLOAT, ["n", 8]]
    (tmp_path / "model.onnx").write_bytes(save(nodes, [("a", *spec), ("b", *spec)], [("y", *spec)], [weight]))
    (tmp_path / "out").mkdir()
    rows = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    np.savez(tmp_path / "ab.npz", a=rows, b=rows * 2)
    np.save(tmp_path / "a.npy", rows)
    assert "int8" in pushed(tmp_path, calibrate="ab.npz").files
    with pytest.raises(InvalidTensor, match="inputs a, b"):
        pushed(tmp_path, calibrate="a.npy")


def test_keywords_keep_their_accuracy_in_int8(tmp_path):
    """MLPerf Tiny's DS-CNN from its fp32 file, calibrated on 100, judged on the other 900: at most one point lost."""
    raw, labels = kws()
    x = kws_float(raw)
    (tmp_path / "out").mkdir()
    np.save(tmp_path / "x.npy", x[:100])
    np.savez(tmp_path / "xy.npz", x=x[100:], y=labels[100:])
    model = data_file("kws", "kws01_dscnn_fp32.onnx")
    report = pushed(tmp_path, model, "x.npy", "xy.npz", require="int8").report
    assert report["accuracy_fp32"] - report["accuracy_int8"] <= 0.01


def test_given_int8_file_is_served_unchanged(tmp_path):
    """Quantised by its author: the only variant, byte for byte, and as accurate as they say."""
    raw, labels = kws()
    (tmp_path / "out").mkdir()
    np.savez(tmp_path / "xy.npz", x=raw, y=labels)
    model = data_file("kws", "kws01_dscnn_int8.onnx")
    prepared = pushed(tmp_path, model, evaluate="xy.npz", min_accuracy=0.9)
    assert list(prepared.files) == ["int8", "micro"]
    assert Path(prepared.files["int8"].path).read_bytes() == model.read_bytes()
    assert prepared.report["accuracy_int8"] >= 0.90


def test_mobilenet_shrinks_to_less_than_a_third(tmp_path):
    """210,852 parameters: int8 weights with all their scales take at most 30 % of float32."""
    (tmp_path / "out").mkdir()
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((16, 96, 96, 3), np.float32))
    report = pushed(tmp_path, data_file("tiny-models", "vww01_mobilenet_fp32.onnx"), "x.npy").report
    assert report["weight_bytes_ratio"] <= 0.30


def test_convolution_without_zero_points_gives_the_same(tmp_path):
    """Zero points that are zero may go: the stripped file and its scales say the same as before."""
    generator = np.random.default_rng(0)
    kernel = numpy_helper.from_array(generator.normal(size=(8, 3, 3, 3)).astype(np.float32), "k")
    bias = numpy_helper.from_array(np.ones(8, np.float32), "b")
    nodes = [helper.make_node("Conv", ["x", "k", "b"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    data = save(
        nodes, [("x", TensorProto.FLOAT, ["n", 3, 8, 8])], [("y", TensorProto.FLOAT, ["n", 8, 6, 6])], [kernel, bias]
    )
    (tmp_path / "model.onnx").write_bytes(data)
    (tmp_path / "out").mkdir()
    x = generator.normal(size=(32, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    prepared = pushed(tmp_path, calibrate="x.npy", require="int8")
    graph = onnx.load(prepared.files["int8"].path).graph
    weights = [node for node in graph.node if node.op_type == "DequantizeLinear" and len(node.input) == 2]
    assert weights
    int8 = Engine().load(Path(prepared.files["int8"].path).read_bytes()).run({"x": x})[0]
    fp32 = Engine().load(data).run({"x": x})[0]
    assert np.linalg.norm(int8 - fp32) / np.linalg.norm(fp32) < 0.05


def test_stateful_model_keeps_its_state_through_requests(tmp_path):
    """Silero's voice detector: the state that one answer gives goes into the next request, and matters."""
    (tmp_path / "out").mkdir()
    model = data_file("silero-vad", "silero_vad_16k_op15.onnx")
    prepared = pushed(tmp_path, model)
    assert (prepared.batchable, prepared.rowwise) == (False, False)
    loaded = Engine().load(Path(prepared.files["fp32"].path).read_bytes())
    sound = np.random.default_rng(0).normal(0, 0.1, (1, 576)).astype(np.float32)
    fresh = {"input": sound, "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16000)}
    first, state = loaded.run(fresh)
    second, _ = loaded.run({**fresh, "state": state})
    assert np.array_equal(first, loaded.run(fresh)[0])
    assert not np.array_equal(first, second)
