"""A job as one deterministic zip of its directory.

The same files give the same bytes and so the same digest, whatever their dates and owners.
"""

from __future__ import annotations

import hashlib
import io
import stat
import struct
import warnings
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from msrt.buffers import Buffer
from msrt.errors import InvalidJob
from msrt.training.settings import CONFIG, JobConfig, parse_config

__all__ = ["Bundle", "open_bundle", "pack", "unpack"]

SIZE_LIMIT: Final = 64 << 20
"""Bytes of all files together."""
FILES_LIMIT: Final = 2000
SKIP: Final = frozenset({"__pycache__", "node_modules", "venv"})
EPOCH: Final = (1980, 1, 1, 0, 0, 0)
ZIP_FAULTS: Final = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OSError, RuntimeError, ValueError,
)  # fmt: skip
"""What zipfile raises on bytes that are no zip; they are in memory, so an OSError is theirs too."""


class Bundle(msgspec.Struct, frozen=True):
    """A packed job."""

    data: Buffer
    digest: str
    """SHA-256 of the data, hex."""
    config: JobConfig


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
    for path in files:
        if path.suffix == ".py" and path.parent == directory:
            _check_syntax(path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in files:
            info = zipfile.ZipInfo(path.relative_to(directory).as_posix(), EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, path.read_bytes())
    return open_bundle(buffer.getvalue())


def _check_syntax(path: Path) -> None:
    """What no node could import is not sent to any. Raises InvalidJob."""
    try:
        with warnings.catch_warnings(action="ignore"):
            compile(path.read_bytes(), path.name, "exec", dont_inherit=True)
    except SyntaxError as error:
        line = (error.text or "").strip()
        where = f"{path.name}, line {error.lineno}" if error.lineno else path.name
        raise InvalidJob(f"{where}: {error.msg}" + (f": {line}" if line else "")) from error
    except ValueError as error:  # null bytes
        raise InvalidJob(f"{path.name}: {error}") from error


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
