"""What `msrt device image micropython` made, as it goes over a serial line; and one board's identity put into it.

Pure but for the library that reads a LittleFS.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from msrt.cli import MissingExtra
from msrt.errors import CallerError
from msrt_device.flash.identity.settings import IdentitySettings
from msrt_device.flash.targets.micropython import BLOCK, InvalidFirmware, find_vfs, is_uf2, little_fs
from msrt_device.flash.writing.errors import BadImage

__all__ = ["BOARD_FILE", "BoardImage", "board_settings", "open_image", "with_identity"]

BOARD_FILE: Final = "board.json"
MAGIC: Final = b"littlefs"
"""At byte 8 of its first block (LittleFS specification, "The superblock")."""


@dataclass(frozen=True)
class BoardImage:
    """An image, taken apart."""

    files: Mapping[str, bytes]
    """Of its file system."""
    flash: bytes = b""
    """The whole flash from `begins` on; empty: the image is a file system alone."""
    begins: int = 0
    vfs_at: int = 0
    vfs_size: int = 0
    """Where the file system lies in `flash`."""


def open_image(data: bytes) -> BoardImage:
    """Raises BadImage: it is nothing for a serial line, with what to do with it. MissingExtra."""
    if data[8:16] == MAGIC:
        return BoardImage(_files(data))
    if is_uf2(data):
        raise BadImage(
            "a .uf2 is not flashed over a serial line", hint="hold BOOTSEL, and copy it to the drive RPI-RP2"
        )
    if data[:4] == b"\x7fELF":
        raise BadImage(
            "an .elf is not flashed over a serial line", hint="use the board's debug probe, or run it in QEMU"
        )
    try:
        begins, at, size = find_vfs(data)
    except InvalidFirmware:
        raise BadImage(
            "the image is neither a LittleFS nor the flash of an ESP32",
            hint="make one: msrt device image micropython -o board.img",
        ) from None
    part = data[at - begins : at - begins + size]
    if part[8:16] != MAGIC:
        raise BadImage("the image has no file system in its partition `vfs`", hint="make it by msrt device image")
    return BoardImage(_files(part), data, begins, at - begins, len(part))


def board_settings(board: IdentitySettings) -> dict[str, object]:
    """What of an identity a microcontroller keeps. Raises CallerError for the rest: it would not take."""
    kept = {"serial", "wifi.ssid", "wifi.password"}
    lost = sorted(name for name, value in board.flat().items() if value and name not in kept and value != "False")
    if "invite" in lost:
        raise CallerError("a microcontroller keeps no claim", hint="give it to `msrt device gateway --invite`")
    if lost:
        raise CallerError(f"a microcontroller does not keep {', '.join(lost)}", hint="they are its gateway's to say")
    wifi = {"ssid": board.wifi.ssid, "password": board.wifi.password} if board.wifi.ssid else None
    return ({"serial": board.serial} if board.serial else {}) | ({"wifi": wifi} if wifi else {})


def with_identity(image: BoardImage, board: IdentitySettings) -> BoardImage:
    """The same for one board. Raises CallerError, BadImage, InvalidConfig (the file system is full)."""
    try:
        before = json.loads(image.files[BOARD_FILE])
    except (KeyError, ValueError):
        raise BadImage(
            f"the image has no {BOARD_FILE}: it is none of msrt's", hint="make it by msrt device image"
        ) from None
    files = {**image.files, BOARD_FILE: json.dumps(before | board_settings(board)).encode()}
    if not image.flash:
        return BoardImage(files)
    end = image.vfs_at + image.vfs_size
    flash = image.flash[: image.vfs_at] + little_fs(files, image.vfs_size) + image.flash[end:]
    return BoardImage(files, flash, image.begins, image.vfs_at, image.vfs_size)


def _files(data: bytes) -> dict[str, bytes]:
    try:
        from littlefs import LittleFS, LittleFSError  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise MissingExtra("device flash", "littlefs-python", "flash") from None
    volume = LittleFS(block_size=BLOCK, block_count=len(data) // BLOCK, mount=False)
    volume.context.buffer = bytearray(data)
    found = {}
    try:
        volume.mount()
        for name in volume.listdir("/"):
            with volume.open(name, "rb") as file:
                found[name] = file.read()
    except LittleFSError as error:
        raise BadImage(f"the image's file system is damaged: {error}") from None
    return found
