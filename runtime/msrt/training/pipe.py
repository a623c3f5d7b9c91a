"""What crosses the pipes between host and runner: u32 length, JSON. Large things lie in files of the work directory,
weights and updates of few bytes are in the command and its answer.
"""

from __future__ import annotations

from io import BufferedIOBase
from typing import Any, BinaryIO, Final, TypeAlias

import msgspec

from msrt.learning.parameter_server.shards import Span
from msrt.training.task import Node

__all__ = [
    "DOING",
    "FRAME_LIMIT",
    "INLINE",
    "WHOLE",
    "Answer",
    "Asked",
    "Baselined",
    "Command",
    "DoBaseline",
    "DoEvaluate",
    "DoExport",
    "DoInitial",
    "DoPersonal",
    "DoStep",
    "DoTrain",
    "Done",
    "Evaluated",
    "Exported",
    "Faulty",
    "Open",
    "Personal",
    "Stepped",
    "Trained",
    "encode",
    "read",
]  # fmt: skip

FRAME_LIMIT: Final = 1 << 20
INLINE: Final = 64 << 10
"""Bytes of weights, or of an update, that cross the pipe themselves."""


class _Tagged(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True): ...


class Open(_Tagged, frozen=True):
    """Load the bundle that lies unpacked in `sources`."""

    sources: str
    work: str


class DoInitial(_Tagged, frozen=True):
    """Write the weights everybody starts from into `weights`."""

    weights: str


class Asked(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a round asks of one node, beyond the weights to begin with."""

    work_s: float = 0.0
    """After so many seconds it sends what it has done; 0: it does all its epochs."""
    noise: float = 0.0
    """Of a private job: standard deviation of the noise that the node adds, over the job's clip."""
    releases: int = 0
    """So often may it give away what it noised, in the whole job; 0: no end."""
    counted: int = 0
    """The newest round whose update of this node is in the model, as far as the node knows."""


WHOLE: Final = Asked()


class DoTrain(_Tagged, frozen=True):
    """Judge the weights on the node's test data, train on its own, write the payload of the update."""

    round: int
    node: Node
    weights: str
    update: str
    encoding: str
    asked: Asked = WHOLE
    data: bytes = b""
    """The weights themselves, where they are small."""


class DoStep(_Tagged, frozen=True):
    """A worker's part between a pull and a push. Both files are float32 and bytes that host and runner share."""

    node: Node
    clock: int
    weights: str
    target: str
    """Payloads of all ranges, one after the other."""
    spans: tuple[Span, ...]
    encoding: str
    judge: bool = False
    """Judge the weights on the node's test data first."""


class DoEvaluate(_Tagged, frozen=True):
    """Judge the weights on the test data of these nodes together."""

    weights: str
    nodes: tuple[Node, ...]


class DoExport(_Tagged, frozen=True):
    """Write the model as ONNX, and the task's reference data, where it has some, as .npy and .npz."""

    weights: str
    model: str
    calibration: str
    evaluation: str


class DoPersonal(_Tagged, frozen=True):
    """Write the model as this node has it, as ONNX: these weights, with the tensors that it kept to itself."""

    weights: str
    model: str
    most: int
    """Of the newest round up to this one: what it kept of a later one goes with later weights."""


class DoBaseline(_Tagged, frozen=True):
    """Train each node alone and all pooled; judge each on all test data."""

    nodes: tuple[Node, ...]


class Done(_Tagged, frozen=True):
    """It is done."""

    size: int = 0
    """Elements of the flat vector, where that is known."""


class Trained(_Tagged, frozen=True):
    """One node's round."""

    samples: int
    size: int
    encoding: str
    metrics: dict[str, float]
    """loss and accuracy of the weights it was given, train_loss, seconds; work: the share of its epochs it has done."""
    payload: Any = b""
    """A Buffer, or the Path of a file that holds it. Filled in by the host; never crosses the pipe."""
    data: bytes = b""
    """The payload itself, where it is small: then there is no file."""


class Stepped(_Tagged, frozen=True):
    """One clock of a worker."""

    samples: int
    """In the push."""
    data: int
    """Of the node in all."""
    metrics: dict[str, float]
    """train_loss; where the weights were judged also judged (samples) and what was found."""


class Evaluated(_Tagged, frozen=True):
    """Means over `samples` test samples."""

    samples: int
    metrics: dict[str, float]


class Exported(_Tagged, frozen=True):
    """Which of the files were written."""

    reference: bool


class Personal(_Tagged, frozen=True):
    """A node's own model was written."""

    round: int
    """In which it trained what it kept."""


class Baselined(_Tagged, frozen=True):
    """Accuracy of each node alone, their mean, and of pooled training."""

    alone: tuple[float, ...]
    alone_mean: float
    pooled: float


class Faulty(_Tagged, frozen=True):
    """The command failed; the runner lives on."""

    text: str
    trace: str = ""


Command: TypeAlias = Open | DoInitial | DoTrain | DoStep | DoEvaluate | DoExport | DoPersonal | DoBaseline
Answer: TypeAlias = Done | Trained | Stepped | Evaluated | Exported | Personal | Baselined | Faulty


DOING: Final[dict[type[Command], str]] = {
    Open: "loading the task", DoInitial: "making the first weights", DoTrain: "training", DoStep: "training",
    DoEvaluate: "evaluating", DoExport: "exporting the model", DoPersonal: "exporting the model",
    DoBaseline: "measuring the baselines",
}  # fmt: skip
"""What a process was at when it failed, for people."""


def encode(message: Command | Answer) -> bytes:
    body = msgspec.json.encode(message)
    return len(body).to_bytes(4, "little") + body


def read(stream: BufferedIOBase | BinaryIO) -> bytes | None:
    """One body from a blocking stream, None at its end."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    body = stream.read(int.from_bytes(head, "little"))
    return body or None
