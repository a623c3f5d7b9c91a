"""A secret in pieces, any `threshold` of which give it back and fewer say nothing (Shamir 1979).

The polynomial is over the integers mod the smallest prime above 2^256, so that any 32 bytes are a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from msrt.errors import BadUpdate

__all__ = ["SECRET_SIZE", "SHARE_SIZE", "combine", "split"]

PRIME: Final = 2**256 + 297
SECRET_SIZE: Final = 32
SHARE_SIZE: Final = 33
"""Bytes of a share: one more than a secret, for the prime is above 2^256."""


def split(secret: bytes, holders: Iterable[int], threshold: int, random: Callable[[int], bytes]) -> dict[int, bytes]:
    """Holder (a number from 1 on) to its share."""
    coefficients = [int.from_bytes(secret, "little")]
    coefficients += [int.from_bytes(random(SHARE_SIZE + 15), "little") % PRIME for _ in range(threshold - 1)]
    return {holder: _at(coefficients, holder).to_bytes(SHARE_SIZE, "little") for holder in holders}


def _at(coefficients: list[int], x: int) -> int:
    """The polynomial's value there (Horner)."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret behind these shares, of which there must be `threshold`: the value at 0 (Lagrange).

    Raises BadUpdate when the shares are no shares of one secret of 32 bytes.
    """
    points = {x: int.from_bytes(share, "little") for x, share in shares.items()}
    if not points or any(not 0 < x < PRIME or not y < PRIME for x, y in points.items()):
        raise BadUpdate("these are no shares of a secret")
    above, total = 1, 0
    for x in points:
        above = above * x % PRIME
    for x, y in points.items():  # y times the product of other / (other - x)
        below = x
        for other in points:
            if other != x:
                below = below * (other - x) % PRIME
        total += y * above * pow(below, -1, PRIME)
    secret = total % PRIME
    if secret >= 1 << (8 * SECRET_SIZE):
        raise BadUpdate("these shares are not of one secret")
    return secret.to_bytes(SECRET_SIZE, "little")
