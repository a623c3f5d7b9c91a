"""Target paths: the name under which an artifact is signed. Pure."""

from __future__ import annotations

import enum
import hashlib
import re
from typing import Final

from msrt.errors import InvalidAddress
from msrt.protocol.address import ModelName

__all__ = ["BINNED", "DEPTH", "Kind", "image", "job", "model"]


class Kind(enum.StrEnum):
    """What an artifact is: the delegated role that signs it, and the first part of its path."""

    MODEL = "models"
    """A model version's manifest, which names its files by digest."""
    JOB = "jobs"
    """A job's bundle."""
    AGENT = "agents"
    """The agent itself: the description of its image, which names the bytes by digest."""
    IMAGE = "images"
    """System images and firmware, by their descriptions as well."""


BINNED: Final = frozenset({Kind.MODEL, Kind.JOB})
"""Kinds of which there may be thousands: their targets lie in hashed bins (TAP 15), each a file of its own."""
DEPTH: Final = {Kind.MODEL: 3, Kind.JOB: 1, Kind.AGENT: 2, Kind.IMAGE: 2}
"""Parts of a path behind its kind."""
_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}")


def model(name: str, version: int) -> str:
    """models/NAMESPACE/NAME/VERSION. Raises InvalidAddress."""
    namespace, _, short = ModelName.parse(name).name.rpartition("/")
    return f"{Kind.MODEL}/{namespace or 'default'}/{short}/{version}"


def job(name: str) -> str:
    """jobs/NAME. Raises InvalidAddress."""
    return f"{Kind.JOB}/{_part(name)}"


def image(kind: str, version: str, classes: str) -> str:
    """agents/VERSION/CLASSES for an agent, images/KIND-VERSION/CLASSES for a system or a firmware.

    CLASSES: the first 64 bits of the hash of the pattern of device classes that it is for. Raises InvalidAddress.
    """
    pattern = hashlib.sha256(classes.encode()).hexdigest()[:16]
    if kind == "agent":
        return f"{Kind.AGENT}/{_part(version)}/{pattern}"
    return f"{Kind.IMAGE}/{_part(f'{kind}-{version}')}/{pattern}"


def _part(text: str) -> str:
    if not _PART.fullmatch(text):
        raise InvalidAddress(
            f"{text[:64]!r} names no artifact", hint="use letters, digits and . _ + ~ -, at most 128 of them"
        )
    return text
