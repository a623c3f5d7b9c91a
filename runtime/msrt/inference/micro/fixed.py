"""Fixed-point requantisation: a float factor as a 31-bit multiplier and a right shift.

After Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(2018), section 2.2, with one rounding (half up) of a 64-bit product instead of two.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_SHIFT", "fixed", "fixed_pair", "requantise"]

MAX_SHIFT: Final = 62
_PAIR_BITS: Final = 30


def fixed(factor: float) -> tuple[int, int]:
    """(multiplier, shift) with factor = multiplier / 2**shift, multiplier below 2**31, shift from 1 to 62.

    Raises ValueError for a factor that is not finite, is negative, or is 2**29 and more.
    """
    if not math.isfinite(factor) or factor < 0:
        raise ValueError(f"no factor: {factor}")
    if not factor:
        return 0, 1
    mantissa, exponent = math.frexp(factor)
    multiplier, shift = round(mantissa * (1 << 31)), 31 - exponent
    if multiplier == 1 << 31:
        multiplier, shift = 1 << 30, shift - 1
    if shift > MAX_SHIFT:
        multiplier, shift = multiplier >> min(shift - MAX_SHIFT, 31), MAX_SHIFT
    if shift < 1:
        raise ValueError(f"a factor of {factor} is too large")
    return multiplier, shift


def fixed_pair(first: float, second: float) -> tuple[int, int, int]:
    """Two multipliers that share a shift. Raises ValueError."""
    shift = _PAIR_BITS - math.frexp(max(first, second))[1]
    if not 1 <= shift <= MAX_SHIFT:
        raise ValueError(f"factors of {first} and {second} are too far from one")
    return round(first * 2.0**shift), round(second * 2.0**shift), shift


def requantise(product: NDArray[np.int64], shift: Any, zero: int, low: int, high: int) -> NDArray[np.int8]:
    """Accumulator times multiplier, shifted right with rounding, moved to the zero point, clamped."""
    half = np.int64(1) << (np.asarray(shift, np.int64) - 1)
    found: NDArray[np.int8] = np.clip(((product + half) >> shift) + zero, low, high).astype(np.int8)
    return found
