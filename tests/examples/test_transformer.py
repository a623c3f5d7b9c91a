from __future__ import annotations

import numpy as np
import onnxruntime
import torch

from msrt.training.task import Node
from tests.examples.simulated import simulation, task_of


def test_no_text_is_at_two_nodes() -> None:
    """Windows of 65 letters; what follows each of the first 64 is the next of them; the end of a text judges."""
    task, _ = task_of("transformer")
    whole = task.data(Node("all"))
    parts = [task.data(Node("n", index=at, count=3)) for at in range(3)]
    for which in (0, 1):
        assert sum(len(part[which][0]) for part in parts) == len(whole[which][0])
    (letters, following), (judged, _) = whole
    assert letters.shape[1:] == following.shape[1:] == (64,)
    assert np.array_equal(letters[:, 1:], following[:, :-1])
    assert 0.05 < len(judged) / len(letters) < 0.15


def test_the_model_sees_only_what_came_before() -> None:
    """Another last letter changes no score but the last ones."""
    task, _ = task_of("transformer")
    model = task.model().eval()
    one = torch.arange(64)[None]
    other = one.clone()
    other[0, -1] = 95
    with torch.inference_mode():
        assert torch.allclose(model(one)[:, :-1], model(other)[:, :-1], atol=1e-6)
        assert not torch.allclose(model(one)[:, -1], model(other)[:, -1], atol=1e-3)


def test_it_learns_letters_and_is_exported(tmp_path) -> None:
    """A round on two texts lowers the loss; the ONNX file gives the same scores."""
    job = simulation("transformer", 2, options={"texts": 2}, rounds=1)
    before = job.judge()["loss"]
    list(job.run())
    assert job.judge()["loss"] < before - 0.5
    job.local.export(job.weights, str(tmp_path / "letters.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "letters.onnx"))
    letters = np.random.default_rng(0).integers(0, 96, (3, 64))
    with torch.inference_mode():
        expected = job.local.model(torch.from_numpy(letters)).numpy()
    assert np.allclose(session.run(None, {"input": letters})[0], expected, atol=1e-3)
