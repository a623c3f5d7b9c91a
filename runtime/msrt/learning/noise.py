"""Gaussian noise for differential privacy, from a key that nobody can guess.

A key becomes a ChaCha20 key stream, that uniform numbers of 53 bits, those Gaussian ones (Box and Muller, 1958) in
float64. A sum of floats tells more of its parts than real numbers would (Mironov, 2012): so what comes out is rounded
to a grid far finer than the noise and far coarser than float64, which drops the digits that tell. That is hardening,
not a proof; a proof takes integers (the discrete Gaussian of Canonne, 2020).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from msrt.learning.vector import Vector

__all__ = ["KEY", "add_noise"]

KEY: Final = 32
"""Bytes of a key; it is used once."""
BLOCK: Final = 1 << 16
"""Elements at once; even."""
GRID: Final = 2.0**-16
"""Of the noise's standard deviation, about."""


def add_noise(flat: Vector, deviation: float, key: bytes) -> Vector:
    """The vector with independent Gaussian noise in every element, a new one. Blocking."""
    if deviation <= 0:
        return flat.copy()
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor()
    grid = 2.0 ** round(math.log2(deviation * GRID))
    noisy: Vector = np.empty(flat.size, np.float32)
    for at in range(0, flat.size, BLOCK):
        part = flat[at : at + BLOCK]
        half = (part.size + 1) // 2
        drawn = np.frombuffer(stream.update(bytes(16 * half)), "<u8")
        moved = _gaussian(drawn)[: part.size] * deviation + part
        np.rint(moved / grid, out=moved)
        noisy[at : at + BLOCK] = moved * grid
    return noisy


def _gaussian(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """As many standard normal numbers as there are words."""
    uniform = ((bits >> np.uint64(11)) + 0.5) * 2.0**-53
    first, second = np.split(uniform, 2)
    radius = np.sqrt(-2.0 * np.log(first))
    angle = 2.0 * math.pi * second
    return np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))
