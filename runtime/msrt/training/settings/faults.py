"""What is wrong with a value in `job.toml`, in words: where it stands, what it is, what may stand there."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec

__all__ = ["endless", "fault"]

MESSAGE: Final = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
MISSING: Final = re.compile(r"missing required field `(\w+)`")
SHOWN: Final = 60
"""Characters of a value."""
NUMBERS: Final = {int: "a whole number", float: "a number"}
BOUNDS: Final = (("ge", "of at least"), ("gt", "above"), ("le", "of at most"), ("lt", "below"))


def fault(error: msgspec.ValidationError, table: Mapping[str, Any], kind: type[msgspec.Struct]) -> str:
    """The sentence for what msgspec found in `table`, which was to be a `kind`."""
    if isinstance(error.__cause__, ValueError):  # a table's own check, in its own words
        return str(error.__cause__)
    found = MESSAGE.match(str(error))
    assert found is not None
    path = [part for part in re.split(r"[.\[]", found["path"] or "") if part]
    value, wanted = _follow(path, table, kind)
    missing = MISSING.search(found["what"])
    if missing:
        return f"{_where(path, whole=True)}needs `{missing[1]}`: {_words(_field(wanted, missing[1]))}"
    return f"{_where(path)} = {_shown(value)}: must be {_words(wanted)}{_near(value, wanted)}"


def endless(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> str:
    """Where a number is not finite, in words; nothing where all are. [options] are the task's own business."""
    for key, value in table.items():
        if isinstance(value, float) and not math.isfinite(value):
            return f"{_where([*path, key])} = {value}: must be a finite number"
        if isinstance(value, dict) and (path or key != "options") and (inner := endless(value, (*path, key))):
            return inner
    return ""


def _where(path: list[str], *, whole: bool = False) -> str:
    """`[train] lr`; of a `whole` table `[train] `, nothing for the file itself."""
    names = [part for part in path if not part.endswith("]")]
    tables = names if whole else names[:-1]
    return (f"[{'.'.join(tables)}] " if tables else "") + ("" if whole or not names else names[-1])


def _follow(path: list[str], table: Mapping[str, Any], kind: Any) -> tuple[Any, Any]:
    """The value at a path and the type it was to have."""
    value: Any = table
    for part in path:
        if part.endswith("]"):
            value = value[int(part[:-1])] if part[:-1].isdigit() else value
            kind = get_args(kind)[0] if get_args(kind) else kind
        else:
            value, kind = value[part], _field(kind, part)
    return value, kind


def _field(kind: Any, name: str) -> Any:
    for one in _kinds(kind):
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            return next((f.type for f in msgspec.structs.fields(one) if f.name == name), object)
    return object


def _kinds(kind: Any) -> tuple[Any, ...]:
    """The types that something may have, None left out."""
    if get_origin(kind) in (Union, UnionType):
        return tuple(one for one in get_args(kind) if one is not type(None))
    return (kind,)


def _words(kind: Any) -> str:
    """What fits a type."""
    kinds = _kinds(kind)
    if len(kinds) > 1:
        return " or ".join(_words(one) for one in kinds)
    (one,) = kinds
    if get_origin(one) is Annotated:
        base, *metas = get_args(one)
        return next((meta.description for meta in metas if meta.description), None) or _bounded(base, metas)
    if get_origin(one) is Literal:
        return f"one of {', '.join(map(str, filter(None, get_args(one))))}"
    if get_origin(one) in (tuple, list):
        return "a list of texts"
    if isinstance(one, type) and issubclass(one, msgspec.Struct):
        return "a table"
    return {bool: "true or false", str: "a text", **NUMBERS}.get(one, "something else")


def _bounded(base: Any, metas: list[msgspec.Meta]) -> str:
    bounds = [f"{word} {getattr(meta, name):g}" for name, word in BOUNDS for meta in metas
              if getattr(meta, name) is not None]  # fmt: skip
    return " ".join([_words(base), " and ".join(bounds)]).strip()


def _near(value: Any, kind: Any) -> str:
    """The choice that was likely meant."""
    choices = [c for one in _kinds(kind) if get_origin(one) is Literal for c in get_args(one) if isinstance(c, str)]
    close = difflib.get_close_matches(value, choices, 1) if isinstance(value, str) else []
    return f"; did you mean {close[0]!r}?" if close else ""


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
