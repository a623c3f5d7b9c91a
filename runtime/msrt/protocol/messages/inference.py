"""Requests, and their answers."""

from __future__ import annotations

import msgspec

from msrt.protocol.messages.base import Mark, Transient

__all__ = ["Infer", "InferCancel", "InferFailed", "Inferred", "TensorSpec"]


class TensorSpec(msgspec.Struct, frozen=True, array_like=True):
    """One tensor that lies in a raw frame beside the message: C order, little endian."""

    name: str
    dtype: str
    """Open Inference Protocol name: FP32, INT8, INT64, BOOL, BYTES ..."""
    shape: tuple[int, ...]


class Infer(Transient, frozen=True, tag="infer"):
    """One or more requests for one model that ride together; each input's rows are concatenated along axis 0."""

    ids: tuple[int, ...]
    """One per request, chosen by the asker."""
    rows: tuple[int, ...]
    """Axis-0 rows of each request."""
    model: str
    inputs: tuple[TensorSpec, ...]
    version: int = 0
    """0 means: what is rolled out."""
    deadline_ms: int = 10_000
    """What is left when sent."""
    outputs: tuple[str, ...] = ()
    """Names wanted; empty means all."""
    trace: str = ""
    priority: int = 0
    """1 urgent, 0 normal, -1 background."""
    sequence: str = ""
    """Requests of one sequence go to one device, which keeps the model's state between them; such a one rides alone."""
    sequence_start: bool = False
    sequence_end: bool = False
    hops: int = 0
    """Masters that passed it on because they were full."""


class Inferred(Transient, frozen=True, tag="inferred"):
    """The answers to requests that rode together."""

    ids: tuple[int, ...]
    rows: tuple[int, ...]
    model: str
    version: int
    variant: str
    """Name of its codec: see msrt.learning.compress."""
    device: str
    """Node name."""
    outputs: tuple[TensorSpec, ...]
    compute_us: int = 0
    queue_us: int = 0
    """What the batch waited on the device before it was computed."""
    depth: int = 0
    """Rows that waited there when it was answered: a fresh probe of its load."""
    marks: dict[str, Mark] = msgspec.field(default_factory=dict)
    """What else the caller should know, such as that a smaller model answered."""


class InferFailed(Transient, frozen=True, tag="infer.failed"):
    """These requests got no answer, and why."""

    ids: tuple[int, ...]
    code: str
    text: str
    hint: str = ""
    retry_after_ms: int = 0


class InferCancel(Transient, frozen=True, tag="infer.cancel"):
    """Nobody waits for these any more."""

    ids: tuple[int, ...]
