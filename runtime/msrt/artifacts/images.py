"""What is sent over the air: an image of an agent, a system or a firmware, and the cloud's signed word for it. Pure."""

from __future__ import annotations

import enum
from fnmatch import fnmatchcase
from typing import Annotated, Final

import msgspec

from msrt.errors import FrameTooLarge, InvalidImage, MalformedFrame
from msrt.protocol import wire

__all__ = ["Image", "Kind", "fits", "pack_image", "read_image"]

LIMIT: Final = 4096
"""Bytes of a packed image's description."""
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
_Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class Kind(enum.StrEnum):
    """What an image replaces."""

    AGENT = "agent"
    """The device's own program: msrt and what it needs."""
    SYSTEM = "system"
    """The whole root of its operating system."""
    FIRMWARE = "firmware"
    """What a microcontroller behind it runs."""


class Image(msgspec.Struct, frozen=True, omit_defaults=True):
    """One image."""

    kind: Kind
    version: _Name
    digest: _Digest
    """SHA-256 of all its bytes, hex."""
    size: int
    classes: str = "*"
    """Pattern of the device classes it is for, such as `x86_64-*`."""
    index: str = ""
    """Digest of the index of its chunks; empty: it has none."""

    @property
    def name(self) -> str:
        return f"{self.kind}@{self.version}"


def pack_image(image: Image) -> bytes:
    """What is signed."""
    return wire.pack(image)


def read_image(data: bytes) -> Image:
    """An image from its description, for which somebody has to vouch (`image_claim`). Raises InvalidImage."""
    try:
        return wire.unpack(data, Image, limit=LIMIT)
    except (MalformedFrame, FrameTooLarge) as error:
        raise InvalidImage(f"the description of an image cannot be read: {error}", hint="upgrade msrt") from error


def fits(image: Image, device_class: str) -> bool:
    """Is it for devices of this class?"""
    return fnmatchcase(device_class, image.classes)
