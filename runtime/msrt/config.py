"""Reads settings once, at the start of the program: a flag wins over the file, the file over the default.

The result is checked and frozen. What the settings are stands in `msrt.settings`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from msrt.errors import InvalidConfig
from msrt.settings import (
    CloudConfig,
    DeviceConfig,
    EdgeConfig,
    GatewayConfig,
    MasterConfig,
    NodeConfig,
    SourceConfig,
    is_loopback,
)

__all__ = [
    "CloudConfig",
    "DeviceConfig",
    "EdgeConfig",
    "GatewayConfig",
    "MasterConfig",
    "NodeConfig",
    "SourceConfig",
    "is_loopback",
    "load",
    "nearest",
    "parse_sets",
]

T = TypeVar("T", bound=NodeConfig)


def load(path: Path | None, type_: type[T], flags: Mapping[str, Any] | None = None) -> T:
    """The settings of one node. Flags that are None were not given.

    Raises InvalidConfig: it names the file, the line, the setting, and for an unknown one the nearest that exists.
    """
    text = "" if path is None else _read(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig(f"{path} is not TOML: {error}") from error
    _check_keys(values, type_, lambda key: _place(path, text, key))
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    _check_keys(given, type_, lambda _: "the command line")

    def place(key: str) -> str:
        return "the command line" if key in given else _place(path, text, key)

    values |= given
    for key in type_.secrets:
        if isinstance(secret := values.get(key), str) and secret.startswith("file:"):
            values[key] = _secret(key, Path(secret.removeprefix("file:")), path)
    try:
        return msgspec.convert(values, type_)
    except msgspec.ValidationError as error:
        raise _explained(error, values, type_, place) from error
    except InvalidConfig as error:
        raise InvalidConfig(f"{path}: {error.text}" if path and not given else error.text, hint=error.hint) from error


def parse_sets(pairs: Iterable[str]) -> dict[str, Any]:
    """`["lease_s=2", "log_format=json"]` (of --set) to flags; values are TOML, a bare word is a string."""
    flags: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InvalidConfig(f"--set {pair!r} has no '='", hint="write it as SETTING=VALUE")
        try:
            flags[key.strip()] = tomllib.loads(f"v = {value}")["v"]
        except tomllib.TOMLDecodeError:
            flags[key.strip()] = value.strip()
    return flags


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise InvalidConfig(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"{path} is not UTF-8 text") from error


def _secret(key: str, file: Path, config: Path | None) -> str:
    try:
        return ((config.parent if config else Path()) / file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"cannot read the file of {key}: {error}") from error


def _check_keys(values: Mapping[str, Any], type_: type[NodeConfig], place: Callable[[str], str]) -> None:
    _check_names(values, type_.__struct_fields__, place)
    sources = values.get("source")
    for source in sources if isinstance(sources, list) else ():
        if isinstance(source, dict) and "source" in type_.__struct_fields__:
            _check_names(source, SourceConfig.__struct_fields__, place)


def _check_names(values: Mapping[str, Any], known: tuple[str, ...], place: Callable[[str], str]) -> None:
    for key in values:
        if key not in known:
            raise InvalidConfig(f"{place(key)}: unknown setting {key!r}", hint=f"did you mean {nearest(key, known)!r}?")


def nearest(key: str, known: Iterable[str]) -> str:
    """Of the known names, of which there is one at least, the one that was most likely meant."""
    return difflib.get_close_matches(key.lower().replace("-", "_"), list(known), n=1, cutoff=0.0)[0]


def _place(path: Path | None, text: str, key: str) -> str:
    """FILE:LINE of a key, as an editor takes it."""
    found = re.search(rf"^\s*(\[+\s*)?[\"']?{re.escape(key)}[\"']?\s*[=.\]]", text, re.MULTILINE)
    # the match may begin with line ends, hence the key's own position
    return f"{path}:{text.count(chr(10), 0, found.end()) + 1}" if found else str(path)


def _explained(
    error: msgspec.ValidationError, values: Mapping[str, Any], type_: type[NodeConfig], place: Callable[[str], str]
) -> InvalidConfig:
    """Msgspec says "Expected `float` > 0.0 - at `$.lease_s`": say whose setting it is, what it was and may be."""
    what, _, where = str(error).partition(" - at `")
    where = where.strip("`").removeprefix("$").removeprefix(".")
    key = re.split(r"[.\[]", where)[0]
    shown = f" = {values[key]!r}" if where == key and key in values else ""
    choices = get_args(get_type_hints(type_).get(key)) if "enum" in what else ()
    hint = f"use {', '.join(choices[:-1])} or {choices[-1]}" if choices else None
    return InvalidConfig(f"{place(key)}: {where}{shown}: {what[0].lower()}{what[1:]}", hint=hint)
