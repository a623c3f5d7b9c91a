"""The seam between a node and what trains for it: the runner in the field, plain vectors in simulation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from msrt.buffers import Buffer
from msrt.learning.parameter_server.shards import Span
from msrt.training.pipe import WHOLE, Asked, Baselined, Evaluated, Stepped, Trained
from msrt.training.settings import JobConfig
from msrt.training.task import Node

__all__ = ["Export", "Step", "Trainer", "Workshop"]


class Export(msgspec.Struct, frozen=True):
    """A finished model: ONNX, and as .npy and .npz (x, y) the task's reference data where it gives some."""

    onnx: bytes
    calibration: bytes = b""
    evaluation: bytes = b""


class Step(msgspec.Struct, frozen=True):
    """What a worker computes between a pull and a push, from one room into another."""

    node: Node
    clock: int
    weights: str
    """Room of float32 elements."""
    target: str
    """Room for the payloads of all ranges, one after the other."""
    spans: tuple[Span, ...]
    encoding: str
    judge: bool = False
    """Judge the weights first."""


class Trainer(Protocol):
    """A device's: trains on the data it holds. All but start and stop raise JobFailed."""

    size: int
    """Elements of the model's flat vector, known once it has started."""

    async def start(self, bundle: Buffer) -> JobConfig:
        """Load a job's zip. Raises InvalidJob or JobFailed."""

    async def train(
        self, node: Node, round_: int, weights: Buffer | Path, encoding: str, within: float, asked: Asked = WHOLE
    ) -> Trained:
        """One round; the payload is in the answer, or a file that is the caller's from then on. Killed after `within`
        seconds.
        """

    async def personal(self, weights: Buffer | Path, most: int, within: float) -> tuple[int, Buffer | Path]:
        """The model as this node has it, with what it kept of the newest round up to `most`: that round, and ONNX."""

    def room(self, name: str, size: int) -> memoryview:
        """So many writable bytes that `step` reads or fills by that name; the same ones each time."""

    async def step(self, step: Step, within: float) -> Stepped:
        """One clock of a parameter server's worker."""

    def pause(self) -> None:
        """Give the processor up at once, keep everything."""

    def resume(self) -> None: ...

    async def stop(self) -> None:
        """End it and forget what is running; files stay."""


class Workshop(Protocol):
    """The cloud's: makes the first weights and the finished model."""

    async def start(self, bundle: Buffer) -> JobConfig: ...

    async def initial(self, within: float) -> Buffer:
        """The weights everybody starts from."""

    async def evaluate(self, weights: Buffer, nodes: Sequence[Node], within: float) -> Evaluated: ...

    async def export(self, weights: Buffer, within: float) -> Export: ...

    async def baseline(self, nodes: Sequence[Node], within: float) -> Baselined: ...

    async def stop(self, *, for_good: bool = False) -> None:
        """End the process; the next command finds another one. For good: nothing stays on disk, `start` begins anew."""
