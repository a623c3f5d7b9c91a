"""`job.toml` as frozen structs, a table each. An unknown key is an error that names the one that was likely meant."""

from __future__ import annotations

import difflib
import tomllib
from typing import Annotated, Any, Final, Literal, get_args

import msgspec

from msrt.errors import InvalidJob

__all__ = [
    "CONFIG",
    "Baseline",
    "Compression",
    "JobConfig",
    "Limits",
    "Pacing",
    "Publish",
    "ServerSettings",
    "TrainSettings",
    "Trigger",
    "parse_config",
]

CONFIG: Final = "job.toml"
CODEC: Final = r"^(fp32|fp16|bf16|int8|sign|topk:0?\.\d{1,6}|powersgd:\d{1,2})$"

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Decay = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Codec = Annotated[str, msgspec.Meta(pattern=CODEC)]
"""fp32, fp16, bf16, int8, sign, topk:SHARE or powersgd:RANK: see msrt.learning.compress."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True): ...


class TrainSettings(_Table, frozen=True):
    """[train]: what one node does in one round."""

    epochs: Positive = 1
    batch: Positive = 32
    lr: Annotated[float, msgspec.Meta(gt=0)] = 0.05
    decay: Share = 1.0
    """lr is multiplied by it after every round, so that late rounds move less."""
    momentum: Decay = 0.9
    weight_decay: NotNegative = 0.0
    clip: NotNegative = 0.0
    """Largest gradient norm, 0 for none."""


class ServerSettings(_Table, frozen=True):
    """[server]: how the mean of the updates moves the model."""

    lr: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class Compression(_Table, frozen=True):
    """[compression]: how updates and weights travel, link by link."""

    device: Codec = "int8"
    """A device's update on its way to the edge."""
    region: Codec = "int8"
    """A region's sum on its way to the cloud."""
    down: Codec = "fp32"
    """The change of the weights since the version that a node has; fp32: the weights themselves."""


class Pacing(_Table, frozen=True):
    """[pace]: when a round ends, and what becomes of late updates."""

    deviations: NotNegative = 4.0
    """Once the quorum is met, nobody is waited for beyond the median of the nodes' times and so many (scaled) median
    absolute deviations; 0: a share of the deadline decides."""
    late: Literal["drop", "next"] = "drop"
    """What is not in its round: dropped, or used in a following one."""
    staleness: Positive = 8
    """So many rounds old may a late update be."""
    discount: NotNegative = 0.5
    """An update that is s rounds old weighs (1 + s) ** -discount of a fresh one."""
    buffer: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Asynchronous (FedBuff): a round ends when so many updates are here, and nodes go on at their own pace. 0: off."""
    steps: Positive = 1
    """A region does so many rounds of its own between two of the cloud's."""

    @property
    def keeps_late(self) -> bool:
        return self.late == "next" or self.buffer > 0

    def since(self, number: int) -> int:
        """The oldest round whose updates may still count in this one; 0 where only its own do."""
        return max(1, number - self.staleness) if self.keeps_late else 0


class Limits(_Table, frozen=True):
    """[limits]: of the runner's process."""

    memory_mb: Positive = 2048
    cpu_s: Positive = 600
    """CPU seconds of one command."""
    file_mb: Positive = 1024
    """The largest file it may write."""


class Baseline(_Table, frozen=True):
    """[baseline]: also train each node alone and all data pooled, for as many epochs as the rounds do together."""

    epochs: Annotated[int, msgspec.Meta(ge=0)] = 0
    """0 means rounds * train.epochs."""


class Publish(_Table, frozen=True):
    """[publish]: push the finished model to the registry, and roll it out."""

    model: str
    rollout: bool = False
    canary: str = ""
    to: str = ""
    max_drop: float = 0.01


class Trigger(_Table, frozen=True):
    """[trigger]: once it is over, start the job again, from the weights it ended with, when devices report enough."""

    events: Annotated[int, msgspec.Meta(ge=0)] = 0
    """New events of the model since the job was created; 0: they start nothing."""
    drift: NotNegative = 0.0
    """A device's readings are so far (PSI) from those the model was made with: 0.1 is some, 0.25 much. 0: never."""
    devices: Positive = 1
    """So many of them must report that."""
    model: str = ""
    """Whose events; empty: of the model that [publish] names."""
    cooldown_s: NotNegative = 3600.0
    """Least time from the end of one job to the beginning of the next."""


class JobConfig(_Table, frozen=True):
    """job.toml."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    task: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    """module:Class, found in the bundle."""
    rounds: Positive = 20
    deadline_s: Seconds = 60.0
    """Of one round."""
    quorum: Share = 0.5
    """Share of the participants that must be included."""
    min_nodes: Positive = 1
    """Wait for so many before the first round."""
    max_nodes: Annotated[int, msgspec.Meta(ge=1, le=6000)] = 4096
    """A round has at most so many participants; of more devices another part takes part in every round."""
    max_samples: Positive = 10_000
    """A device weighs at most so many samples in a round, whatever it claims to have."""
    select: str = ""
    """Label selector of the participants, empty for all devices."""
    compression: Compression | Codec = Compression()
    """A codec alone stands for both links upwards."""
    seed: int = 0
    checkpoints: Positive = 3
    """So many of the newest stay on the cloud's disk."""
    train: TrainSettings = TrainSettings()
    server: ServerSettings = ServerSettings()
    pace: Pacing = Pacing()
    limits: Limits = Limits()
    baseline: Baseline | None = None
    publish: Publish | None = None
    trigger: Trigger | None = None
    options: dict[str, Any] = {}
    """Passed to the Task as it is."""

    def __post_init__(self) -> None:
        if self.trigger is not None and not (self.trigger.events or self.trigger.drift):
            raise ValueError("[trigger] starts nothing: give it `events`, `drift` or both")
        if self.trigger is not None and not self.watched:
            raise ValueError("[trigger] watches no model: name one in it, or in [publish]")

    @property
    def watched(self) -> str:
        """The model whose events may start the job again; empty: none."""
        published = self.publish.model if self.publish else ""
        return (self.trigger.model or published) if self.trigger else ""

    @property
    def links(self) -> Compression:
        """The codec of each link."""
        said = self.compression
        return said if isinstance(said, Compression) else Compression(device=said, region=said)


def parse_config(text: str) -> JobConfig:
    """job.toml as a struct. Raises InvalidJob that names the fault."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidJob(f"{CONFIG} is not TOML: {error}") from error
    _nearest(table, JobConfig, CONFIG)
    try:
        return msgspec.convert(table, JobConfig)
    except msgspec.ValidationError as error:
        raise InvalidJob(f"{CONFIG}: {error}") from error


def _nearest(table: dict[str, Any], kind: type[_Table], where: str) -> None:
    """Raise InvalidJob for the first key that the table does not know, naming the one that was likely meant."""
    known = _fields(kind)
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise InvalidJob(f"{where} has no setting {key!r}", hint=hint)
        inner = known[key]
        if isinstance(value, dict) and inner is not None:
            _nearest(value, inner, f"{where} [{key}]")


def _fields(kind: type[_Table]) -> dict[str, type[_Table] | None]:
    """Each setting, with the table it may be."""
    return {field.name: _table(field.type) for field in msgspec.structs.fields(kind)}


def _table(kind: Any) -> type[_Table] | None:
    """The table among the types that a setting may have."""
    found = [one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, _Table)]
    return found[0] if found else None
