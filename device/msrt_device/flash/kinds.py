"""What a file has to be before a medium is emptied for it: an image with partitions, or, on a file, a firmware."""

from __future__ import annotations

from typing import Final

from msrt.errors import CallerError
from msrt_device.flash.targets.micropython import InvalidFirmware, find_vfs, is_uf2
from msrt_device.flash.volumes.partitions import partitions
from msrt_device.flash.writing.errors import BadImage
from msrt_device.flash.writing.grid import HEAD
from msrt_device.flash.writing.image import Image

__all__ = ["UnknownImage", "look"]

SHORTEST: Final = 4096
"""Bytes: nothing that starts on a board is smaller."""
ELF: Final = b"\x7fELF"
LITTLE_FS: Final = slice(8, 16)
OTHERS: Final = (
    (slice(0, 8), b"!<arch>\n", "a Debian package", "install it on a machine that runs: TARGET is ssh://USER@HOST"),
    (slice(257, 262), b"ustar", "a tar file", "agents and systems are sent over the air: msrt update push"),
    (slice(0, 4), b"%PDF", "a PDF", None),
    (slice(0, 2), b"#!", "a script", None),
)
FORCE: Final = "msrt device image makes one for a board; if this is the right file, say --force-unknown-image"


class UnknownImage(CallerError):
    """The file is nothing that a board would start from."""

    code = "unknown_image"
    hint = FORCE


def look(image: Image, *, on_disk: bool, identity: bool = False) -> None:
    """Look at its beginning, unpacked. Raises UnknownImage that says what it lacks, BadImage (it is damaged).

    A firmware may go into a file, without an identity; on a disk no board would look for it.
    """
    head = _head(image)
    name, size = image.path, image.size or len(head)
    if size < SHORTEST:
        raise UnknownImage(f"{name} has {size} bytes{' when it is unpacked' if image.kind != 'raw' else ''}")
    if firmware := _firmware(head):
        if on_disk:
            said = "msrt device targets says what it is for"
            raise UnknownImage(f"{name} is {firmware}, which no board looks for on a disk", hint=said)
        if identity:
            said = "leave it out here; give the invite to msrt device gateway"
            raise UnknownImage(f"{name} is {firmware}: the identity of a microcontroller is its gateway's", hint=said)
        return
    for where, magic, what, hint in OTHERS:
        if head[where] == magic:
            raise UnknownImage(f"{name} is {what}", hint=hint)
    try:
        found = partitions(_Head(head))
    except BadImage as error:
        raise UnknownImage(f"{name}: {error.text}") from None
    if not found:
        raise UnknownImage(f"{name} has no partition table (GPT, MBR)")
    for one in found:
        if image.size and one.offset + one.size > image.size:
            raise UnknownImage(
                f"{name} has {image.size} bytes, and its partition {one.number} ends at byte {one.offset + one.size}",
                hint="it may have been cut off: fetch it again; if it is the right file, say --force-unknown-image",
            )


def _head(image: Image) -> bytes:
    source, buffer = image.source(), bytearray(HEAD)
    try:
        return bytes(memoryview(buffer)[: source.read_at(0, memoryview(buffer))])
    finally:
        source.close()


def _firmware(head: bytes) -> str:
    """What for a microcontroller it is, empty: nothing."""
    if head.startswith(ELF):
        return "an ELF program"
    if is_uf2(head):
        return "a UF2"
    if head[LITTLE_FS] == b"littlefs":
        return "a LittleFS"
    try:
        find_vfs(head)
    except InvalidFirmware:
        return ""
    return "the flash of an ESP32"


class _Head:
    """The beginning of an image, as `partitions` reads it."""

    def __init__(self, head: bytes) -> None:
        self._head = head

    def read(self, offset: int, length: int) -> bytes:
        return self._head[offset : offset + length]
