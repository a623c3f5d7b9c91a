from __future__ import annotations

import pytest
import torch

from msrt.training.descent import Descent


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_descent_is_sgd(momentum: float, weight_decay: float) -> None:
    """Ten steps move the parameters to the same bits as torch.optim.SGD."""
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    descent = Descent(ours.parameters(), 0.1, momentum, weight_decay)
    sgd = torch.optim.SGD(theirs.parameters(), 0.1, momentum, weight_decay=weight_decay, foreach=False)
    for _ in range(10):
        batch = torch.randn(7, 5)
        for model, optimiser in ((ours, descent), (theirs, sgd)):
            optimiser.zero_grad()
            model(batch).square().mean().backward()
            optimiser.step()
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)
