from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt.errors import Corrupt, InvalidJob
from msrt.learning.vector import Layout, advance, load, save

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "steps": np.array(7, dtype=np.int64),
    "half": np.array([0.5, -2], dtype=np.float16),
}


def test_tensors_come_back_in_their_own_shape_and_dtype() -> None:
    """Flatten and unflatten are inverse, dtypes included."""
    layout = Layout.of(TENSORS)
    back = layout.unflatten(layout.flatten(TENSORS))
    assert layout.size == 9
    for name, value in TENSORS.items():
        assert back[name].dtype == value.dtype
        assert np.array_equal(back[name], value)


def test_a_file_holds_layout_and_elements() -> None:
    """What was saved is loaded, aligned and without a copy."""
    layout = Layout.of(TENSORS)
    flat = layout.flatten(TENSORS)
    found, back = load(save(layout, flat))
    assert found == layout
    assert np.array_equal(back, flat)
    assert back.flags.aligned


def test_advance_adds_the_scaled_mean() -> None:
    """A step keeps the layout and adds rate times the mean."""
    layout = Layout.of({"w": np.ones(3, np.float32)})
    stepped = advance(save(layout, np.ones(3, np.float32)), np.array([1, 2, 3], np.float32), 0.5)
    assert load(stepped)[1].tolist() == [1.5, 2.0, 2.5]
    with pytest.raises(InvalidJob):
        advance(stepped, np.ones(4, np.float32))


def test_tensors_that_do_not_fit_are_named() -> None:
    """A missing or mis-shaped tensor is an error that names it."""
    layout = Layout.of(TENSORS)
    with pytest.raises(InvalidJob, match="'steps' is missing"):
        layout.flatten({"a": TENSORS["a"]})
    with pytest.raises(InvalidJob, match="cannot be averaged"):
        Layout.of({"text": np.array(["x"])})


@given(st.data())
def test_broken_files_are_refused_and_nothing_else(data: st.DataObject) -> None:
    """Any cut or flipped byte either loads or raises Corrupt."""
    raw = bytearray(save(Layout.of(TENSORS), Layout.of(TENSORS).flatten(TENSORS)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    cut = raw[: data.draw(st.integers(0, len(raw)))]
    for broken in (raw, cut):
        try:
            load(bytes(broken))
        except Corrupt:
            continue


@given(st.binary(max_size=200))
def test_garbage_is_no_file(garbage: bytes) -> None:
    """Random bytes, with or without the magic, raise Corrupt."""
    for raw in (garbage, b"MSRTVEC1" + garbage):
        with pytest.raises(Corrupt):
            load(raw)
