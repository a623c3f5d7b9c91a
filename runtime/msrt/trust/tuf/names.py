"""Target paths: the name under which an artifact is signed. Pure."""

from __future__ import annotations

import enum
import re
from typing import Final

from msrt.errors import InvalidAddress
from msrt.protocol.address import ModelName

__all__ = ["BINNED", "DEPTH", "Kind", "agent", "image", "job", "model"]


class Kind(enum.StrEnum):
    """What an artifact is: the delegated role that signs it, and the first part of its path."""

    MODEL = "models"
    """A model version's manifest, which names its files by digest."""
    JOB = "jobs"
    """A job's bundle."""
    AGENT = "agents"
    """The agent itself."""
    IMAGE = "images"
    """System images and firmware."""


BINNED: Final = frozenset({Kind.MODEL, Kind.JOB})
"""Kinds of which there may be thousands: their targets lie in hashed bins (TAP 15), each a file of its own."""
DEPTH: Final = {Kind.MODEL: 3, Kind.JOB: 1, Kind.AGENT: 2, Kind.IMAGE: 2}
"""Parts of a path behind its kind."""
_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")


def model(name: str, version: int) -> str:
    """models/NAMESPACE/NAME/VERSION. Raises InvalidAddress."""
    namespace, _, short = ModelName.parse(name).name.rpartition("/")
    return f"{Kind.MODEL}/{namespace or 'default'}/{short}/{version}"


def job(name: str) -> str:
    """jobs/NAME. Raises InvalidAddress."""
    return f"{Kind.JOB}/{_part(name)}"


def agent(name: str, version: str) -> str:
    """agents/NAME/VERSION. Raises InvalidAddress."""
    return f"{Kind.AGENT}/{_part(name)}/{_part(version)}"


def image(name: str, version: str) -> str:
    """images/NAME/VERSION: a system image, or firmware. Raises InvalidAddress."""
    return f"{Kind.IMAGE}/{_part(name)}/{_part(version)}"


def _part(text: str) -> str:
    if not _PART.fullmatch(text):
        raise InvalidAddress(
            f"{text[:64]!r} names no artifact", hint="use letters, digits and . _ + -, at most 128 of them"
        )
    return text
