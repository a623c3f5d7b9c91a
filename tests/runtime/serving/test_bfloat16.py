"""BF16 as numbers."""

from __future__ import annotations

import math
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt.serving.bfloat16 import narrowed, widened


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=20))
def test_the_nearest_is_taken_the_even_one_of_two(values):
    """As the package does that knows the type."""
    expected = np.array(values, np.float32).astype(ml_dtypes.bfloat16)
    assert narrowed(values) == expected.tobytes()
    assert widened(narrowed(values)) == expected.astype(np.float32).tolist()


def test_what_is_no_number_stays_none():
    """NaN and infinity are read as they are, and what is too large for FP32 is refused."""
    assert math.isnan(widened(struct.pack("<H", 0x7FC0))[0])
    assert widened(narrowed([math.inf])) == [math.inf]
    with pytest.raises(OverflowError):
        narrowed([1e39])
