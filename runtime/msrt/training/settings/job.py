"""`job.toml` as one struct. An unknown key is an error that names the one that was likely meant."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable
from typing import Annotated, Any, Final, get_args

import msgspec

from msrt.errors import InvalidAddress, InvalidJob
from msrt.learning.selection import Wanted
from msrt.protocol.address import ModelName, Selector
from msrt.training.settings.aggregate import Aggregation
from msrt.training.settings.base import Codec, Positive, Seconds, Share, Table
from msrt.training.settings.cluster import ClusterSettings
from msrt.training.settings.combinations import refuse
from msrt.training.settings.ends import Baseline, Publish, Trigger
from msrt.training.settings.faults import endless, fault
from msrt.training.settings.local import Limits, TrainSettings
from msrt.training.settings.parameter_server import ParameterServer
from msrt.training.settings.privacy import Privacy, clash
from msrt.training.settings.rounds import Compression, Pacing, Sampling
from msrt.training.settings.secure import SecureSettings
from msrt.training.settings.server import ServerSettings

__all__ = ["CONFIG", "JobConfig", "parse_config"]

CONFIG: Final = "job.toml"
NAME: Final = "lower-case letters, digits and dashes, at most 63, no dash in front"
TASK: Final = "MODULE:CLASS (as task:Digits), the module a file of the job's folder"
STATELESS: Final = ("fp32", "fp16", "bf16")


class JobConfig(Table, frozen=True):
    """job.toml."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description=NAME)]
    task: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description=TASK)]
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
    aggregate: Aggregation = Aggregation()
    pace: Pacing = Pacing()
    sampling: Sampling = Sampling()
    parameter_server: ParameterServer | None = None
    limits: Limits = Limits()
    cluster: ClusterSettings | None = None
    privacy: Privacy | None = None
    secure: SecureSettings | None = None
    """None: edges see their devices' updates."""
    baseline: Baseline | None = None
    publish: Publish | None = None
    trigger: Trigger | None = None
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    """Passed to the Task as it is."""

    def __post_init__(self) -> None:
        if self.max_nodes < self.aggregate.opened.least:
            raise ValueError(
                f"{self.aggregate.rule} needs {self.aggregate.opened.least} nodes, max_nodes is {self.max_nodes}"
            )
        if self.trigger is not None and not (self.trigger.events or self.trigger.drift):
            raise ValueError("[trigger] starts nothing: give it `events`, `drift` or both")
        if self.trigger is not None and not self.watched:
            raise ValueError("[trigger] watches no model: name one in it, or in [publish]")
        if self.privacy is not None and (why := clash(self.privacy, self.links)):
            raise ValueError(why)
        if self.parameter_server is not None:
            self._check_shards()

    def _check_shards(self) -> None:
        """What a parameter server cannot have pushed or pulled."""
        if self.links.device.startswith("powersgd"):
            raise ValueError("powersgd needs whole matrices, a [parameter_server] cuts the model into ranges")
        if self.links.down not in STATELESS:
            raise ValueError(
                f"weights travel as {', '.join(STATELESS)} from a [parameter_server]: set compression.down"
            )

    @property
    def watched(self) -> str:
        """The model whose events may start the job again; empty: none."""
        published = self.publish.model if self.publish else ""
        return (self.trigger.model or published) if self.trigger else ""

    @property
    def least_nodes(self) -> int:
        """Wait for so many: a rule may need more than the operator asks for."""
        return max(self.min_nodes, self.aggregate.opened.least)

    @property
    def least_and_why(self) -> tuple[int, str]:
        """And what asks for so many, in words; nothing to say of the one that every job needs."""
        if self.aggregate.opened.least > self.min_nodes:
            return self.least_nodes, f"aggregate.rule = {self.aggregate.rule}"
        return self.min_nodes, f"min_nodes = {self.min_nodes}" if self.min_nodes > 1 else ""

    def wanted(self, devices: int) -> Wanted:
        """Whom a round asks, of so many devices."""
        return self.sampling.wanted(devices, self.aggregate.opened.least, self.max_nodes)

    @property
    def heaviest(self) -> int:
        """Samples that one node may weigh: to a robust rule all weigh the same, and where each hides among others."""
        return 1 if self.aggregate.opened.robust or self.privacy else self.max_samples

    @property
    def links(self) -> Compression:
        """The codec of each link."""
        said = self.compression
        return said if isinstance(said, Compression) else Compression(device=said, region=said)


def parse_config(text: str) -> JobConfig:
    """job.toml as a struct. Raises InvalidJob that names the fault, or what in it cannot be combined."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidJob(f"{CONFIG} is not TOML: {error}") from error
    _nearest(table, JobConfig, CONFIG)
    if where := endless(table):
        raise InvalidJob(f"{CONFIG}: {where}")
    try:
        config = msgspec.convert(table, JobConfig)
    except msgspec.ValidationError as error:
        raise InvalidJob(f"{CONFIG}: {fault(error, table, JobConfig)}") from error
    _check_names(config)
    refuse(config)
    return config


def _check_names(config: JobConfig) -> None:
    """Raise InvalidJob for a name or selector that would be found wrong only when the job begins, or is over."""
    publish, trigger = config.publish, config.trigger
    names: list[tuple[str, str, Callable[[str], object]]] = [("select", config.select, Selector.parse)]
    if publish is not None:
        names += [("[publish] model", publish.model, ModelName.parse), ("[publish] to", publish.to, Selector.parse)]
    if trigger is not None and trigger.model:
        names.append(("[trigger] model", trigger.model, ModelName.parse))
    for where, said, read in names:
        try:
            read(said)
        except InvalidAddress as error:
            raise InvalidJob(f"{CONFIG}: {where}: {error.text}", hint=error.hint) from error


def _nearest(table: dict[str, Any], kind: type[Table], where: str) -> None:
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


def _fields(kind: type[Table]) -> dict[str, type[Table] | None]:
    """Each setting, with the table it may be."""
    return {field.name: _table(field.type) for field in msgspec.structs.fields(kind)}


def _table(kind: Any) -> type[Table] | None:
    """The table among the types that a setting may have."""
    found = [one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, Table)]
    return found[0] if found else None
