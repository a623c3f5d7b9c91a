"""What crosses the socket between the runner and rank 0 of its group: frames of `msrt.training.pipe`."""

from __future__ import annotations

import msgspec

from msrt.training.task import Node

__all__ = ["DoRound", "Fault", "RoundDone", "encode"]


class DoRound(msgspec.Struct, frozen=True):
    """Train on the node's data from the weights in a file, and write those after it into another, as bare float32."""

    round: int
    node: Node
    weights: str
    result: str
    key: str
    """Of the weights: a checkpoint of the same round from other weights is none of its."""
    work: float = 1.0
    """Share of the steps of all epochs that is asked for."""
    until: float = 0.0
    """On this machine's monotonic clock: no further step after it; 0: none is too late."""


class RoundDone(msgspec.Struct, frozen=True):
    """`samples` were trained on."""

    samples: int
    metrics: dict[str, float]


class Fault(msgspec.Struct, frozen=True):
    """What user code raised in a worker. Written into a file: a restart would find the same."""

    rank: int
    text: str
    where: str
    """The last lines of its traceback."""
    refused: bool = False
    """The job cannot be done this way, whoever tries."""


def encode(message: DoRound | RoundDone) -> bytes:
    body = msgspec.json.encode(message)
    return len(body).to_bytes(4, "little") + body
