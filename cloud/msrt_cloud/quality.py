"""May int8 stand in for fp32? Pure judgement over two sets of outputs.

With labels, accuracy decides. Without, the two are compared: a classifier by how often both name the same class (an
answer that changes need not be a wrong one, so twice the allowed drop may change), anything else by the error relative
to the size of the outputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from msrt.errors import InvalidConfig, QualityGate
from msrt.protocol.messages import TensorSpec

__all__ = [
    "Judgement", "accuracy", "class_names", "is_classifier", "judge", "predictions", "relative_error",
    "require_accuracy",
]  # fmt: skip

Array = NDArray[Any]

RELATIVE_ERROR: Final = 0.05
"""Largest error of outputs that are not classes: 26 dB below the signal."""


@dataclass(frozen=True)
class Judgement:
    """Whether a variant may serve, why not, and the numbers."""

    passed: bool
    reason: str
    numbers: dict[str, float]


def is_classifier(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> bool:
    """Whether the first output scores classes: two axes, and not an image of an input (as an autoencoder's is)."""
    shape = outputs[0].shape
    return len(shape) == 2 and shape[1] != 0 and all(spec.shape[1:] != shape[1:] for spec in inputs)


def class_names(lines: Iterable[str], outputs: tuple[TensorSpec, ...]) -> tuple[str, ...]:
    """One name a class, in their order; blank lines at the end are left out. Raises InvalidConfig where that does not
    fit the first output."""
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    blank = next((number for number, name in enumerate(names, 1) if not name), 0)
    if blank:
        raise InvalidConfig(f"line {blank} of the labels is blank", hint="write one class name a line, in their order")
    shape = outputs[0].shape
    classes = shape[-1] if len(shape) > 1 else -1
    if names and classes not in (-1, len(names)) and (classes, len(names)) != (1, 2):
        raise InvalidConfig(
            f"{len(names)} labels for the {classes} classes of output {outputs[0].name}",
            hint="one name a line, for each",
        )
    return tuple(names)


def predictions(outputs: Array) -> Array:
    """Class per sample from scores [n, classes], from one probability [n] or [n, 1], or from labels themselves."""
    if outputs.ndim > 2:
        raise QualityGate(f"no class can be read from outputs of shape {list(outputs.shape)}")
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        return np.asarray(outputs.argmax(axis=1))
    flat = outputs.reshape(len(outputs))
    return np.asarray(flat > 0.5).astype(np.int64) if flat.dtype.kind == "f" else flat


def accuracy(outputs: Array, labels: Array) -> float:
    """Share of samples whose class is the label."""
    return float(np.mean(predictions(outputs) == labels))


def relative_error(reference: Array, outputs: Array) -> float:
    """Norm of the difference over the norm of the reference; infinite where one holds NaN."""
    reference, outputs = reference.astype(np.float64), outputs.astype(np.float64)
    if not np.isfinite(outputs).all() or not np.isfinite(reference).all():
        return float("inf")
    return float(np.linalg.norm(outputs - reference) / max(float(np.linalg.norm(reference)), 1e-12))


def require_accuracy(name: str, value: float, least: float) -> None:
    """Raises QualityGate below `least`."""
    if value < least:
        raise QualityGate(
            f"{name} reaches an accuracy of {value:.4f}, asked is {least:.4f}", hint="train on, or lower --min-accuracy"
        )


def judge(
    fp32: Array, int8: Array, *, labels: Array | None, classifier: bool, max_drop: float, min_accuracy: float = 0.0
) -> Judgement:
    """Hold int8's outputs against fp32's, with labels or without."""
    error = relative_error(fp32, int8)
    numbers = {"relative_error": error}
    if not np.isfinite(error):
        return Judgement(passed=False, reason="outputs that are not finite", numbers={})
    if labels is not None:
        before, after = accuracy(fp32, labels), accuracy(int8, labels)
        numbers |= {"accuracy_fp32": before, "accuracy_int8": after}
        floor = max(before - max_drop, min_accuracy)
        reason = f"accuracy {after:.4f} against {before:.4f} in fp32, allowed is {floor:.4f}"
        return Judgement(passed=after >= floor - 1e-9, reason=reason, numbers=numbers)
    if classifier:
        same = float(np.mean(predictions(fp32) == predictions(int8)))
        least = 1 - 2 * max_drop
        reason = f"names the class of fp32 for {same:.4f} of the calibration data, allowed is {least:.4f}"
        return Judgement(passed=same >= least - 1e-9, reason=reason, numbers=numbers | {"agreement": same})
    reason = f"relative error {error:.4f} on the calibration data, allowed is {RELATIVE_ERROR}"
    return Judgement(passed=error <= RELATIVE_ERROR, reason=reason, numbers=numbers)
