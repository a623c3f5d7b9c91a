"""Graphs become blobs that answer as onnxruntime does, or are refused by the name of what cannot run."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from msrt.errors import InvalidModel
from msrt.inference.micro import compile_graph, read_blob
from msrt_cloud.micro import graph_of
from tests.cloud.models import data_file, kws
from tests.runtime.inference.micro.graphs import both, compiled, convolutions, quantised
from tests.runtime.inference.models import mlp, model_of


def test_an_mlp_answers_as_onnxruntime_does(tmp_path):
    """The same label for every row, and outputs within one step of the last quantiser."""
    rows = np.random.default_rng(1).normal(size=(500, 16)).astype(np.float32)
    file = quantised(mlp((16, 24, 5)), rows, tmp_path)
    wanted, found = both(file, rows)
    assert (wanted.argmax(1) == found.argmax(1)).mean() >= 0.995
    assert np.abs(wanted - found).max() <= compiled(file).out_scale * 1.001


def test_images_answer_as_onnxruntime_does(tmp_path):
    """Padding, strides, dilation, depthwise, pools, a residual, clip, flatten and softmax in one."""
    rows = np.random.default_rng(2).normal(size=(300, 2, 10, 8)).astype(np.float32)
    wanted, found = both(quantised(convolutions(), rows, tmp_path), rows)
    assert np.abs(wanted - found).max() <= 4 / 255
    ranked = np.sort(wanted, axis=1)
    clear = ranked[:, -1] - ranked[:, -2] > 4 / 255  # softmax to 8 bits ties
    assert clear.mean() > 0.8
    assert (wanted.argmax(1) == found.argmax(1))[clear].all()


@pytest.mark.slow
def test_keyword_spotting_answers_as_onnxruntime_does():
    """MLPerf Tiny's DS-CNN on its own keywords (200 of them): the same bytes."""
    rows, labels = kws()
    wanted, found = both(data_file("kws", "kws01_dscnn_int8.onnx").read_bytes(), rows[:200])
    assert (wanted == found).all()
    assert (found.argmax(1) == labels[:200]).mean() > 0.85


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"),
    [("ic01_resnet", (32, 32, 3)), ("vww01_mobilenet", (96, 96, 3)), ("ad01_autoencoder", (640,))],
)
def test_other_tiny_models_answer_as_onnxruntime_does(name, shape):
    """MLPerf Tiny's other three, on noise: the same label."""
    rows = np.random.default_rng(3).integers(-128, 128, (50, *shape)).astype(np.int8)
    wanted, found = both(data_file("tiny-models", f"{name}_int8.onnx").read_bytes(), rows)
    assert (wanted.reshape(50, -1).argmax(1) == found.reshape(50, -1).argmax(1)).all()


def test_a_blob_survives_its_bytes(tmp_path):
    """What was written is read again, with what flash and RAM it needs."""
    rows = np.random.default_rng(1).normal(size=(50, 16)).astype(np.float32)
    blob = compiled(quantised(mlp((16, 24, 5)), rows, tmp_path))
    assert read_blob(blob.data) == blob
    assert blob.board_bytes == len(blob.board) < len(blob.data)
    assert blob.arena >= 16 + 24
    for at in (0, 5, 20, 70, blob.board_bytes - 1):
        with pytest.raises(InvalidModel):
            read_blob(blob.data[:at] + bytes([blob.data[at] ^ 1]) + blob.data[at + 1 :])


def refused(file, match):
    with pytest.raises(InvalidModel, match=match):
        compile_graph(graph_of(onnx.load_model_from_string(file)))


def test_an_operator_that_boards_lack_is_named_with_its_node():
    """So that who exported the model finds it."""
    spec = [TensorProto.FLOAT, ["n", 4]]
    nodes = [helper.make_node("Gelu", ["x"], ["y"], name="act_3")]
    refused(
        model_of(nodes, [("x", *spec)], [("y", *spec)], opset=20).SerializeToString(),
        r"Gelu \(node act_3\) is not among",
    )


def test_a_float_model_is_refused():
    """Naming the operator whose input is not quantised."""
    refused(mlp(), r"Gemm .* takes 'x', which is not quantised")


def test_several_inputs_are_refused():
    """A board is asked with one."""
    spec = [TensorProto.FLOAT, ["n", 4]]
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    refused(model_of(nodes, [("a", *spec), ("b", *spec)], [("y", *spec)]).SerializeToString(), "2 inputs and 1 outputs")
