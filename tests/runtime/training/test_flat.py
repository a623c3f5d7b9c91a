from __future__ import annotations

import numpy as np
import pytest
import torch

from msrt.errors import InvalidJob
from msrt.training.flat import FlatModel


def _model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))


def _state(model: torch.nn.Module) -> np.ndarray:
    return np.concatenate(
        [value.detach().numpy().reshape(-1).astype(np.float32) for value in model.state_dict().values()]
    )


def test_the_vector_is_the_state_in_its_own_order() -> None:
    """Integers among them; the model answers as before."""
    model, twin = _model(), _model()
    flat = FlatModel(model)
    assert np.array_equal(flat.vector(), _state(twin))
    x = torch.randn(5, 3)
    assert torch.equal(model(x), twin(x))


def test_what_is_put_is_in_the_model_and_what_is_trained_in_the_vector() -> None:
    """Both ways, a step of torch's own optimiser in between."""
    model = _model()
    flat = FlatModel(model)
    weights = np.arange(flat.layout.size, dtype=np.float32)
    flat.put(weights)
    assert np.array_equal(_state(model), weights)
    model(torch.randn(5, 3)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert np.array_equal(flat.vector(), _state(model))
    assert not np.array_equal(flat.vector(), weights)
    assert np.array_equal(weights, np.arange(weights.size))  # the caller's own


def test_tied_weights_stay_tied() -> None:
    """One tensor under two names is one tensor still, and the vector tells it twice."""
    model = torch.nn.Module()
    model.a, model.b = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)
    model.b.weight = model.a.weight
    flat = FlatModel(model)
    flat.put(np.array([1, 2, 3, 4, 1, 2, 3, 4], np.float32))
    assert model.a.weight is model.b.weight
    with torch.no_grad():
        model.a.weight.add_(1)
    assert flat.vector().tolist() == [2, 3, 4, 5, 2, 3, 4, 5]


def test_a_tensor_that_user_code_moved_is_copied_from_then_on() -> None:
    """Its new memory is what counts."""
    model = _model()
    flat = FlatModel(model)
    model[0].weight.data = torch.full((4, 3), 7.0)
    assert (flat.vector()[:12] == 7).all()
    flat.put(np.zeros(flat.layout.size, np.float32))
    assert not model[0].weight.any()


def test_a_vector_of_another_size_is_refused() -> None:
    """Nothing is loaded then."""
    flat = FlatModel(_model())
    with pytest.raises(InvalidJob, match="elements, the model"):
        flat.put(np.zeros(3, np.float32))
