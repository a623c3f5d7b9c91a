"""Boards that run MicroPython: the agent and its engine as a LittleFS, alone or behind a firmware that users give."""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from msrt.errors import CallerError, InvalidConfig
from msrt_device.flash.identity.settings import IdentitySettings
from msrt_device.flash.targets import MissingTools, Progress

__all__ = ["SOURCES", "TARGET", "InvalidFirmware", "MicroPython", "find_vfs", "is_uf2", "join_uf2", "little_fs"]

SOURCES: Final = Path(__file__).parent.parent / "firmware" / "micropython"
BLOCK: Final = 4096
"""Bytes of a block of the file system: an erase sector of the flash of all three families."""
DISK_VERSION: Final = 0x0002_0000
"""LittleFS 2.0, which every MicroPython of today can mount."""
SIZE: Final = 2 << 20
"""Of the file system, where nothing says it."""
_ESP_ENTRY: Final = struct.Struct("<HBBII16sI")
_ESP_MAGIC: Final = 0x50AA
_ESP_TABLE: Final = 0x8000
_ESP_BEGINNINGS: Final = (0x0, 0x1000, 0x2000)
"""Where in flash a file of the ESP32 family begins, by chip."""
_UF2: Final = struct.Struct("<8I476sI")
_UF2_MAGIC: Final = (0x0A324655, 0x9E5D5157, 0x0AB16F30)
_UF2_FAMILY: Final = 0x2000
_UF2_DATA: Final = 256
_XIP: Final = 0x1000_0000
"""Where the flash of an RP2 begins in its memory."""
_LINK: Final = re.compile(r"usb|uart:\d{1,2}(@\d{1,8})?|tcp:\d{1,5}")
_RP2_AT: Final = 0xA0000
_RP2_SIZE: Final = 1408 << 10
"""The file system of a Raspberry Pi Pico: the end of its 2 MiB."""


class InvalidFirmware(CallerError):
    """A firmware file is not one that an agent can be put behind."""

    code = "invalid_firmware"


class MicroPython:
    """ESP32, RP2 and STM32 boards with MicroPython 1.20 or newer."""

    name: str = "micropython"
    title: str = (
        "ESP32, RP2, STM32 with MicroPython: agent and int8 engine behind `msrt device gateway`; models come over the "
        "air, another firmware does not"
    )
    verified: str = (
        "Agent and engine served under the official WebAssembly build of MicroPython 1.27; images read back by "
        "littlefs-python; flashed over a serial line by mpremote to that build's own REPL. On no real board: USB, "
        "UART, Wi-Fi and sensors of main.py, and esptool's writing, are untried."
    )
    options: Mapping[str, str] = {
        "firmware": "MicroPython for the board, a .bin (ESP32 family) or .uf2 (RP2), to be in the image; default: none",
        "at": "offset of the file system in flash; default: the firmware's partition `vfs`, 0xA0000 on RP2 (Pico)",
        "size": "bytes of the file system; default: the partition's, 1441792 on RP2 (Pico), else 2097152",
        "link": "usb (default), uart:NUMBER@BAUD or tcp:PORT: how its gateway reaches it",
        "identity": "an identity.toml with serial and Wi-Fi; the image is then one board's, and as secret as that file",
        "adc": "pin whose samples its own sensor reads; default: none",
    }

    def needs(self) -> list[str]:
        """What writes the file system."""
        return [] if find_spec("littlefs") else ["littlefs-python: pip install 'msrt[flash]'"]

    def build(self, options: Mapping[str, str], out: Path, progress: Progress) -> None:
        """Write the image. Raises MissingTools, InvalidConfig, InvalidIdentity, InvalidFirmware, OSError."""
        if missing := self.needs():
            raise MissingTools(self.name, missing)
        firmware = Path(options["firmware"]).read_bytes() if "firmware" in options else b""
        at, size = _number(options, "at"), _number(options, "size")
        progress("file system", 0, 1)
        if not firmware:
            data = little_fs(_files(options), size or SIZE)
        elif is_uf2(firmware):
            files = little_fs(_files(options), size or _RP2_SIZE)
            data = join_uf2(firmware, files, _XIP + (_RP2_AT if at is None else at))
        else:
            begins, vfs_at, vfs_size = find_vfs(firmware)
            at, size = vfs_at if at is None else at, size or vfs_size
            if at < begins + len(firmware):
                raise InvalidFirmware(f"the file system at {at:#x} would lie in the firmware, which ends later")
            data = firmware.ljust(at - begins, b"\xff") + little_fs(_files(options), size)
        out.write_bytes(data)
        progress("file system", 1, 1)


def little_fs(files: Mapping[str, bytes], size: int) -> bytes:
    """A LittleFS of `size` bytes with these files in its root. Raises InvalidConfig."""
    from littlefs import LittleFS, LittleFSError  # noqa: PLC0415 - an extra

    if size % BLOCK or not 2 * BLOCK <= size <= 64 << 20:
        raise InvalidConfig(f"size = {size}: it is a multiple of {BLOCK}, 64 MiB at most")
    volume = LittleFS(block_size=BLOCK, block_count=size // BLOCK, disk_version=DISK_VERSION)
    try:
        for name, data in files.items():
            with volume.open(name, "wb") as file:
                file.write(data)
    except LittleFSError as error:
        raise InvalidConfig(f"the agent does not fit a file system of {size} bytes: {error}") from None
    return bytes(volume.context.buffer)


def find_vfs(firmware: bytes) -> tuple[int, int, int]:
    """Where a firmware of the ESP32 family begins in flash, and offset and size of its partition `vfs`.

    Its partition table is described in Espressif's ESP-IDF guide, "Partition Tables". Raises InvalidFirmware.
    """
    for begins in _ESP_BEGINNINGS:
        for at in range(_ESP_TABLE - begins, min(_ESP_TABLE - begins + 0xC00, len(firmware) - 31), 32):
            magic, _, _, offset, size, label, _ = _ESP_ENTRY.unpack_from(firmware, at)
            if magic != _ESP_MAGIC:
                break
            if label.rstrip(b"\0") == b"vfs":
                return begins, offset, size
    raise InvalidFirmware(
        "the firmware is no UF2, and has no partition table with `vfs` where the ESP32 family has it",
        hint="take the .bin or .uf2 of micropython.org for the board; for others build the file system alone",
    )


def join_uf2(firmware: bytes, data: bytes, address: int) -> bytes:
    """The firmware's blocks, and behind them those of `data` at `address` that are not erased flash.

    The format is Microsoft's "USB Flashing Format (UF2)". Raises InvalidFirmware.
    """
    blocks = [list(_UF2.unpack_from(firmware, at)) for at in range(0, len(firmware) - 511, 512)]
    if any((block[0], block[1], block[9]) != _UF2_MAGIC for block in blocks):
        raise InvalidFirmware("the firmware has a damaged UF2 block", hint="fetch it again")
    families = Counter(block[7] for block in blocks if block[2] & _UF2_FAMILY)
    if not families:
        raise InvalidFirmware("the firmware's blocks name no family of chips")
    family = families.most_common(1)[0][0]
    own = [block for block in blocks if block[7] == family]
    if max(block[3] + block[4] for block in own) > address:
        raise InvalidFirmware(f"the file system at {address - _XIP:#x} would lie in the firmware", hint="set at=OFFSET")
    for sector in range(0, len(data), BLOCK):
        if data[sector : sector + BLOCK].strip(b"\xff"):
            for at in range(sector, sector + BLOCK, _UF2_DATA):
                piece = data[at : at + _UF2_DATA].ljust(476, b"\0")
                block = [*_UF2_MAGIC[:2], _UF2_FAMILY, address + at, _UF2_DATA, 0, 0, family, piece, _UF2_MAGIC[2]]
                own.append(block)
                blocks.append(block)
    for number, block in enumerate(own):
        block[5], block[6] = number, len(own)
    return b"".join(_UF2.pack(*block) for block in blocks)


def is_uf2(firmware: bytes) -> bool:
    return firmware[:8] == struct.pack("<2I", *_UF2_MAGIC[:2])


def _number(options: Mapping[str, str], name: str) -> int | None:
    if name not in options:
        return None
    try:
        return int(options[name], 0)
    except ValueError:
        raise InvalidConfig(f"{name} = {options[name]!r} is no number", hint="such as 0x200000") from None


def _files(options: Mapping[str, str]) -> dict[str, bytes]:
    """What the board gets: the sources, and its settings."""
    settings: dict[str, object] = {"link": options.get("link", "usb")}
    if "adc" in options:
        settings["sensor"] = {"adc": _number(options, "adc")}
    if "identity" in options:
        settings |= _identity(Path(options["identity"]))
    if not _LINK.fullmatch(str(settings["link"])):
        raise InvalidConfig(f"link = {settings['link']!r}: it is usb, uart:NUMBER@BAUD or tcp:PORT")
    if str(settings["link"]).startswith("tcp:") and "wifi" not in settings:
        raise InvalidConfig(
            "link = tcp needs a network", hint="give identity=FILE with [wifi], or put board.json onto the board"
        )
    files = {path.name: path.read_bytes() for path in sorted(SOURCES.glob("*.py"))}
    return files | {"board.json": json.dumps(settings).encode()}


def _identity(path: Path) -> dict[str, object]:
    found = IdentitySettings.parse(path.read_text("utf-8"), str(path))
    if found.invite:
        raise InvalidConfig(
            "a microcontroller keeps no claim", hint="give the invite to `msrt device gateway --invite`"
        )
    wifi = {"ssid": found.wifi.ssid, "password": found.wifi.password} if found.wifi.ssid else None
    return ({"serial": found.serial} if found.serial else {}) | ({"wifi": wifi} if wifi else {})


TARGET: Final = MicroPython()
