"""Every answer is held against bare onnxruntime on the very file that its version and variant name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Answer", "Judge"]

TOLERANCE: Final = 1e-4
"""Largest difference of an output, relative to the largest output of its row."""


@dataclass(frozen=True)
class Answer:
    """One row's outputs and what the response says of their origin."""

    outputs: NDArray[np.float32]
    version: int
    variant: str
    device: str


class Judge:
    """`rows`: what is asked; `labels`: the truth; `model(version, variant)`: the bytes of that ONNX file."""

    def __init__(
        self, rows: NDArray[np.float32], labels: NDArray[np.int64], model: Callable[[int, str], bytes]
    ) -> None:
        self.rows, self.labels, self._model = rows, labels, model
        self._expected: dict[tuple[int, str], NDArray[np.float32]] = {}

    def expected(self, version: int, variant: str) -> NDArray[np.float32]:
        """What bare onnxruntime answers to each row. Raises NotFound for a variant that does not exist."""
        key = (version, variant)
        if key not in self._expected:
            self._expected[key] = _run(self._model(version, variant), self.rows)
        return self._expected[key]

    def accuracy(self, version: int, variant: str) -> float:
        """Share of the rows that this file labels rightly."""
        return float((self.expected(version, variant).argmax(axis=1) == self.labels).mean())

    def wrong(self, row: int, answer: Answer) -> bool:
        """Another label, or too far off."""
        truth = self.expected(answer.version, answer.variant)[row]
        given = answer.outputs.reshape(-1)
        if given.shape != truth.shape or int(given.argmax()) != int(truth.argmax()):
            return True
        return bool(np.abs(given - truth).max() > TOLERANCE * np.abs(truth).max())

    def right_label(self, row: int, answer: Answer) -> bool:
        """Is it the digit that was drawn?"""
        return int(answer.outputs.reshape(-1).argmax()) == int(self.labels[row])


def _run(model: bytes, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime  # noqa: PLC0415 - heavy, and only the demo's own process needs it here

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: rows[at : at + 1]})[0] for at in range(len(rows))])
