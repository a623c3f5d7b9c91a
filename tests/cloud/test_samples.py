"""Calibration and evaluation files: what fits a model goes in, what does not is named."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from msrt.errors import InvalidTensor
from msrt.inference.engine import Engine
from msrt.protocol.messages import TensorSpec
from msrt_cloud.samples import Samples, load_evaluation, load_samples, outputs_of
from tests.cloud.models import save
from tests.runtime.inference.models import mlp

ONE = (TensorSpec("x", "FP32", (-1, 4)),)
TWO = (TensorSpec("left", "FP32", (-1, 2)), TensorSpec("right", "INT64", (-1, 3)))
X = np.arange(40, dtype=np.float32).reshape(10, 4)
Y = np.arange(10) % 3


@pytest.fixture
def file(tmp_path):
    """Save one array, or arrays by name; the path."""

    def write(array=None, **arrays):
        path = tmp_path / ("data.npz" if arrays else "data.npy")
        if arrays:
            np.savez(path, **arrays)
        else:
            np.save(path, array)
        return path

    return write


def test_one_array_is_for_the_one_input(file):
    """Under the input's own name, whatever that is."""
    samples = load_samples(file(X), ONE)
    assert list(samples.inputs) == ["x"]
    assert len(samples) == 10


def test_arrays_by_name_are_for_several_inputs(file):
    """Each of its own type; whole numbers become floats where floats are taken, and never the other way."""
    samples = load_samples(file(left=np.ones((5, 2), np.int32), right=np.ones((5, 3), np.int64)), TWO)
    assert samples.inputs["left"].dtype == np.float32
    with pytest.raises(InvalidTensor, match="'right' takes INT64"):
        load_samples(file(left=np.ones((5, 2)), right=np.ones((5, 3), np.float32)), TWO)
    with pytest.raises(InvalidTensor, match=r"left, right.*one array"):
        load_samples(file(X), TWO)


@pytest.mark.parametrize(
    ("array", "fault"),
    [
        (np.ones((5, 3), np.float32), r"takes \[-1, 4\], the array is \[5, 3\]"),
        (np.ones((0, 4), np.float32), "at least one"),
        (np.float32(1), "at least one"),
        (np.ones((5, 1, 1, 4), np.float32), "takes"),
        (np.array(["a", "b"]), "takes FP32"),
        (np.ones((5, 4), np.complex64), "takes FP32"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(file, array, fault):
    """With both shapes, or both types, in the sentence."""
    with pytest.raises(InvalidTensor, match=fault):
        load_samples(file(array), ONE)


def test_a_missing_or_an_unknown_name_is_said(file):
    """The names on both sides."""
    with pytest.raises(InvalidTensor, match=r"\['left', 'write'\].*\['left', 'right'\]"):
        load_samples(file(left=np.ones((5, 2)), write=np.ones((5, 3))), TWO)
    with pytest.raises(InvalidTensor, match="same number of samples"):
        load_samples(file(left=np.ones((5, 2)), right=np.ones((4, 3), np.int64)), TWO)


@pytest.mark.parametrize("data", [b"", b"text", b"PK\x03\x04 no zip", b"\x93NUMPY\x01\x00"])
def test_a_damaged_file_is_no_samples(tmp_path, data):
    """Its name is in the sentence, and how to make a good one."""
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(InvalidTensor, match=r"x\.npy.*np\.save"):
        load_samples(tmp_path / "x.npy", ONE)


def test_pickled_objects_are_not_loaded(file):
    """A file from elsewhere runs no code here."""
    with pytest.raises(InvalidTensor, match="cannot read"):
        load_samples(file(np.array([{}, []], dtype=object)), ONE)


def test_evaluation_data_has_labels(file):
    """`x` for the one input whatever its name, and whole numbers, one a sample."""
    samples = load_evaluation(file(x=X, y=Y), (TensorSpec("image", "FP32", (-1, 4)),))
    assert list(samples.inputs) == ["image"]
    assert np.array_equal(samples.labels, Y)
    with pytest.raises(InvalidTensor, match="no labels"):
        load_evaluation(file(x=X), ONE)
    with pytest.raises(InvalidTensor, match="whole numbers"):
        load_evaluation(file(x=X, y=Y.astype(np.float32)), ONE)
    with pytest.raises(InvalidTensor, match="whole numbers"):
        load_evaluation(file(x=X, y=np.eye(10, 3, dtype=np.int64)), ONE)
    with pytest.raises(InvalidTensor, match="10 samples and 9 labels"):
        load_evaluation(file(x=X, y=Y[:9]), ONE)


def test_a_batch_gives_what_single_rows_give():
    """However many rows ride together."""
    model = Engine().load(mlp())
    samples = Samples({"x": np.random.default_rng(1).normal(size=(130, 4)).astype(np.float32)})
    together, single = (outputs_of(model, samples, batchable=flag) for flag in (True, False))
    assert together.shape == single.shape == (130, 3)
    assert np.allclose(together, single, atol=1e-6)


def test_a_model_without_a_batch_is_fed_one_sample_at_a_time():
    """Its input has a dimension less than the data."""
    node = helper.make_node("Relu", ["x"], ["y"])
    model = Engine().load(save([node], [("x", TensorProto.FLOAT, [4])], [("y", TensorProto.FLOAT, [4])]))
    samples = Samples({"x": X})
    assert samples.shapes(model) == {"x": (4,)}
    assert np.array_equal(outputs_of(model, samples, batchable=False), X.reshape(-1))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_refused_with_its_sample(file, bad):
    """It would poison ranges or accuracy without a word. Whole numbers have no such values."""
    x = X.copy()
    x[7, 2] = bad
    with pytest.raises(InvalidTensor, match=r"^data\.npy: input 'x' is NaN or infinite in sample 7; leave .* out"):
        load_samples(file(x), ONE)
    with pytest.raises(InvalidTensor, match=r"data\.npz: input 'x' is NaN or infinite in sample 7"):
        load_evaluation(file(x=x, y=Y), ONE)
