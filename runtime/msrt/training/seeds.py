"""Where chance begins: the same round, node and step roll the same dice wherever they run."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

__all__ = ["number_of", "reseed"]


def number_of(*seed: int) -> int:
    """What a generator is seeded with."""
    return hash(seed) & 0x7FFF_FFFF_FFFF_FFFF


def reseed(number: int) -> None:
    """Seed the generators that torch uses by itself, as `torch.manual_seed`, in every step."""
    _seeding()(number)


@functools.cache
def _seeding() -> Callable[[int], object]:
    """Without an accelerator `torch.manual_seed` writes the stack down for one that may come: 65 us and more a call."""
    return torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed
