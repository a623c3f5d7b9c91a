"""What types cannot bound: how deep a peer may nest in a free-form field, and that its keys are text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from msrt.errors import CallerError, MalformedFrame

__all__ = ["MAX_DEPTH", "check_message", "check_value", "is_free_form", "is_plain"]

MAX_DEPTH: Final = 16
"""Nesting of the free-form fields (params, result, meta, data)."""
_LEAVES: Final = frozenset((str, int, float, bool, bytes, type(None)))


def is_free_form(kind: type) -> bool:
    """Whether a message has a field in which its sender may nest as it likes."""
    return any("object" in str(hint) for hint in kind.__annotations__.values())


def is_plain(message: msgspec.Struct) -> bool:
    """Whether it surely passes `check_message`, with nothing in it but what msgpack has itself: the quick answer for
    most. Nothing recurses deeper than MAX_DEPTH.
    """
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if type(value) not in _LEAVES and not _plain(value, MAX_DEPTH - 1):
            return False
    return True


def _plain(value: object, left: int) -> bool:
    if left < 0:
        return False
    below: Iterable[object]
    if type(value) is dict:
        for key in value:
            if type(key) is not str:
                return False
        below = value.values()
    elif type(value) is list or type(value) is tuple:
        below = value
    else:
        return False
    return all(type(item) in _LEAVES or _plain(item, left - 1) for item in below)


def check_message(message: msgspec.Struct, fault: type[MalformedFrame | CallerError]) -> None:
    """Check every field of a message that nests."""
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if type(value) in (dict, list, tuple):
            check_value(value, MAX_DEPTH, fault)


def check_value(value: object, depth: int, fault: type[MalformedFrame | CallerError]) -> None:
    """Raise `fault` for nesting over depth or for keys that are not text. By layers, so that nothing recurses."""
    layer: list[object] = [value]
    left = depth
    while layer:
        if left < 0:
            raise fault(f"nested deeper than {depth}")
        left -= 1
        below: list[object] = []
        for item in layer:
            if isinstance(item, dict):
                if not all(type(key) is str for key in item):
                    raise fault("a map's keys are text")
                below.extend(item.values())
            elif isinstance(item, (list, tuple)):
                below.extend(item)
        layer = below
