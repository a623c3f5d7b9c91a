"""Methods of local training against the papers' formulas, written straight here."""

from __future__ import annotations

import numpy as np
import pytest

from msrt.training.local import Local
from msrt.training.task import Node
from tests.runtime.training.quadratic import Quadratic, config


@pytest.mark.parametrize("mu", [0.0, 0.3, 2.0])
def test_fedprox_descends_on_the_loss_and_the_distance(mu):
    """Each step follows g(w) + mu (w - w_round); without mu it is FedAvg."""
    local = Local(Quadratic({}), config(epochs=5, batch=4, proximal=mu))
    start = local.initial()
    delta, _, _ = local.train(start, Node("n1", index=1), 3)
    x = start.astype(np.float64)
    for _ in range(10):
        x = x - 0.1 * (Quadratic.gradient(1, x) + mu * (x - start))
    assert np.allclose(delta, x - start, atol=1e-5)


def test_the_proximal_term_is_not_clipped():
    """`clip` bounds the gradient of the loss; what holds a node back holds whatever that is."""
    local = Local(Quadratic({}), config(epochs=6, clip=0.5, proximal=1.0))
    start = local.initial()
    delta, _, _ = local.train(start, Node("n0"), 1)
    x = start.astype(np.float64)
    for _ in range(6):
        gradient = Quadratic.gradient(0, x)
        gradient *= min(1.0, 0.5 / np.linalg.norm(gradient))
        x = x - 0.1 * (gradient + (x - start))
    assert np.allclose(delta, x - start, atol=1e-5)
