"""A job as one deterministic zip of its directory, and `job.toml` as a frozen struct.

The same files give the same bytes and so the same digest, whatever their dates and owners.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import stat
import struct
import tomllib
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final

import msgspec

from msrt.buffers import Buffer
from msrt.errors import InvalidJob

__all__ = [
    "Baseline",
    "Bundle",
    "JobConfig",
    "Limits",
    "Publish",
    "TrainSettings",
    "open_bundle",
    "pack",
    "parse_config",
    "unpack",
]

SIZE_LIMIT: Final = 64 << 20
"""Bytes of all files together."""
FILES_LIMIT: Final = 2000
SKIP: Final = frozenset({"__pycache__", "node_modules", "venv"})
EPOCH: Final = (1980, 1, 1, 0, 0, 0)
CONFIG: Final = "job.toml"
ZIP_FAULTS: Final = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OSError, RuntimeError, ValueError,
)  # fmt: skip
"""What zipfile raises on bytes that are no zip; they are in memory, so an OSError is theirs too."""

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True): ...


class TrainSettings(_Table, frozen=True):
    """[train]: what one node does in one round."""

    epochs: Positive = 1
    batch: Positive = 32
    lr: Annotated[float, msgspec.Meta(gt=0)] = 0.05
    decay: Share = 1.0
    """lr is multiplied by it after every round, so that late rounds move less."""
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    clip: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Largest gradient norm, 0 for none."""


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
    compression: Annotated[str, msgspec.Meta(pattern="^(int8|fp32)$")] = "int8"
    server_lr: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    seed: int = 0
    train: TrainSettings = TrainSettings()
    limits: Limits = Limits()
    baseline: Baseline | None = None
    publish: Publish | None = None
    options: dict[str, Any] = {}
    """Passed to the Task as it is."""


class Bundle(msgspec.Struct, frozen=True):
    """A packed job."""

    data: Buffer
    digest: str
    """SHA-256 of the data, hex."""
    config: JobConfig


def _nearest(table: dict[str, Any], kind: type[_Table], where: str) -> None:
    """Raise InvalidJob for the first key that the table does not know, naming the one that was likely meant."""
    known = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise InvalidJob(f"{where} has no setting {key!r}", hint=hint)
        for inner in (TrainSettings, Limits, Baseline, Publish):
            if isinstance(value, dict) and inner.__name__.lower().removesuffix("settings") == key:
                _nearest(value, inner, f"{where} [{key}]")


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


def _files(directory: Path) -> list[Path]:
    found = []
    for path in sorted(directory.rglob("*")):
        inside = path.relative_to(directory)
        if any(part in SKIP or part.startswith(".") for part in inside.parts) or path.suffix == ".pyc":
            continue
        if path.is_symlink():
            raise InvalidJob(f"{inside} is a symbolic link", hint="a bundle holds plain files only")
        if path.is_file():
            found.append(path)
    return found


def pack(directory: Path) -> Bundle:
    """Zip a job's directory. Raises InvalidJob. Blocking."""
    if not (directory / CONFIG).is_file():
        raise InvalidJob(f"{directory} has no {CONFIG}")
    files = _files(directory)
    total = sum(path.stat().st_size for path in files)
    if total > SIZE_LIMIT or len(files) > FILES_LIMIT:
        raise InvalidJob(
            f"{len(files)} files of {total} bytes; a bundle holds {FILES_LIMIT} files and {SIZE_LIMIT} bytes",
            hint="keep data out of it: nodes bring their own",
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in files:
            info = zipfile.ZipInfo(path.relative_to(directory).as_posix(), EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, path.read_bytes())
    return open_bundle(buffer.getvalue())


def open_bundle(data: Buffer) -> Bundle:
    """A zip as a Bundle: its entries are checked and its settings read. Raises InvalidJob. Blocking."""
    with _archive(data) as archive:
        if CONFIG not in archive.namelist():
            raise InvalidJob(f"the bundle has no {CONFIG}")
        try:
            text = _content(archive, archive.getinfo(CONFIG)).decode()
        except UnicodeDecodeError as error:
            raise InvalidJob(f"the bundle's {CONFIG} is not UTF-8") from error
    return Bundle(data, hashlib.sha256(data).hexdigest(), parse_config(text))


def _archive(data: Buffer) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except ZIP_FAULTS as error:
        raise InvalidJob(f"the bundle is not a zip: {error}") from error
    entries = archive.infolist()
    names = {entry.filename for entry in entries}
    if len(entries) > FILES_LIMIT or sum(entry.file_size for entry in entries) > SIZE_LIMIT:
        raise InvalidJob(f"the bundle holds {len(entries)} entries, more than its limits allow")
    for entry in entries:
        path = PurePosixPath(entry.filename)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        plain = kind in {0, stat.S_IFREG} and entry.compress_type in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
        outside = path.is_absolute() or ".." in path.parts or "\\" in entry.filename
        nested = entry.is_dir() or any(str(above) in names for above in path.parents)
        if outside or nested or not plain:
            raise InvalidJob(f"the bundle's entry {entry.filename!r} is not a plain file inside it")
    return archive


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """An entry's bytes, at most as many as it declares."""
    try:
        return archive.read(entry)
    except ZIP_FAULTS as error:
        raise InvalidJob(f"the bundle's entry {entry.filename!r} is broken: {error}") from error


def unpack(data: Buffer, directory: Path) -> JobConfig:
    """Write the files below `directory` and return the settings. Raises InvalidJob. Blocking."""
    config = open_bundle(data).config
    with _archive(data) as archive:
        for entry in archive.infolist():
            target = directory / entry.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_content(archive, entry))
    return config
