"""Where chance begins."""

from __future__ import annotations

import torch

from msrt.training.seeds import number_of, reseed


def test_the_same_seed_rolls_the_same_dice():
    """As torch's own way of seeding does."""
    reseed(number_of(1, 2, 3))
    ours = torch.rand(3)
    torch.manual_seed(number_of(1, 2, 3))
    assert torch.equal(ours, torch.rand(3))
    reseed(number_of(1, 2, 4))
    assert not torch.equal(ours, torch.rand(3))
