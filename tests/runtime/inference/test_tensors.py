import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt.errors import InvalidTensor
from msrt.inference.tensors import (
    ITEM_BYTES,
    NUMPY_NAMES,
    array_of,
    frame_of,
    has_nan,
    pack_strings,
    spec_of,
    strings_in,
)
from msrt.protocol.messages import TensorSpec


@pytest.mark.parametrize("dtype", NUMPY_NAMES)
@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (200, 100)])
def test_array_survives_the_frame(dtype, shape):
    """Every dtype and shape, small (copied) and large (viewed)."""
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(NUMPY_NAMES[dtype])
    spec = spec_of("x", array)
    frame = frame_of(array)
    assert spec == TensorSpec("x", dtype, shape)
    assert memoryview(frame).nbytes == array.size * ITEM_BYTES[dtype]
    again = array_of(spec, frame)
    assert again.dtype == array.dtype
    assert np.array_equal(again, array)


def test_large_array_is_not_copied():
    """A frame of a large output is the output's own memory, and an array of a frame is the frame's."""
    array = np.zeros((100, 1000), np.float32)
    view = array_of(TensorSpec("x", "FP32", array.shape), frame_of(array))
    assert np.shares_memory(array, view)


def test_transposed_array_goes_out_in_c_order():
    """Strides do not cross the wire."""
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T
    assert np.array_equal(array_of(spec_of("x", array), frame_of(array)), array)


@given(st.lists(st.text(max_size=20), max_size=8))
def test_strings_survive_the_frame(texts):
    """Any text, with zeros and empty ones."""
    array = np.array([*texts, "end"], dtype=object)
    spec = spec_of("t", array)
    assert spec.dtype == "BYTES"
    frame = frame_of(array)
    assert strings_in(spec, frame) == [text.encode() for text in array]
    assert list(array_of(spec, frame)) == list(array)


def test_bytes_that_are_no_text_are_refused():
    """Models take text; a caller that sends Latin-1 is told."""
    with pytest.raises(InvalidTensor, match="not UTF-8"):
        array_of(TensorSpec("t", "BYTES", (1,)), pack_strings([b"\xff"]))


@pytest.mark.parametrize(
    ("spec", "frame"),
    [
        (TensorSpec("x", "FP32", (2,)), bytes(7)),
        (TensorSpec("x", "FP32", (2,)), bytes(4)),
        (TensorSpec("x", "FP8", (2,)), bytes(4)),
        (TensorSpec("x", "", ()), b""),
    ],
)
def test_frame_that_does_not_fit_is_refused(spec, frame):
    """Also where nobody checked before."""
    with pytest.raises(InvalidTensor, match="'x'"):
        array_of(spec, frame)


def test_array_that_no_model_takes_is_refused():
    """Complex numbers and dates have no place on the wire."""
    with pytest.raises(InvalidTensor, match="complex64"):
        spec_of("x", np.zeros(1, np.complex64))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_and_infinity_are_found(dtype):
    """Wherever they stand; large finite values are none."""
    array = np.full(1000, np.finfo(dtype).max if dtype != "float64" else 1e300, dtype)
    assert not has_nan(array)
    for bad in (np.nan, np.inf, -np.inf):
        array[777] = bad
        assert has_nan(array)
    assert not has_nan(np.zeros((0,), dtype))
    assert not has_nan(np.zeros(3, np.int64))
