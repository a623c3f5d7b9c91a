"""Reading compressed images, whole: a file that was cut off is refused, for zstd before anything is written."""

from __future__ import annotations

import contextlib
import lzma
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, Final, NamedTuple, Protocol

from msrt.cli import MissingExtra
from msrt_device.flash.writing.errors import BadImage

__all__ = [
    "WINDOW", "Frame", "Reader", "kind_of", "load_zstandard", "open_xz", "open_zstd", "zstd_faults", "zstd_frames",
]  # fmt: skip

XZ_MAGIC: Final = b"\xfd7zXZ\x00"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
OTHERS: Final = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"PK\x03\x04": "zip", b"7z\xbc\xaf\x27\x1c": "7z"}
WINDOW: Final = 1 << 31
"""As far back as `zstd --long=31` refers."""


class Reader(Protocol):
    """A stream of the image's bytes."""

    def readinto(self, into: memoryview, /) -> int: ...

    def close(self) -> None: ...


class Frame(NamedTuple):
    """A frame of a zstd file."""

    at: int
    """Where it begins in the file."""
    packed: int
    """Bytes in the file, header and checksum included."""
    size: int
    """Bytes that it unpacks to, by its header; -1: that does not say."""


def kind_of(path: Path) -> str:
    """`raw`, `zstd` or `xz`, by the file's first bytes. Raises BadImage: other compressions, no file."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise BadImage(f"cannot read the image {path}: {error.strerror}") from error
    if not head:
        raise BadImage(f"{path} is empty")
    if head.startswith(XZ_MAGIC):
        return "xz"
    if head.startswith(ZSTD_MAGIC) or _skippable(head):
        return "zstd"
    for magic, name in OTHERS.items():
        if head.startswith(magic):
            raise BadImage(f"{path} is packed with {name}", hint="unpack it first, or use .zst or .xz")
    return "raw"


def load_zstandard() -> ModuleType:
    """The library; raw images do without. Raises MissingExtra."""
    try:
        import zstandard  # noqa: PLC0415 - of the extra `flash`
    except ModuleNotFoundError:
        raise MissingExtra("device flash", "zstandard", "flash") from None
    return zstandard


def open_xz(path: Path) -> Reader:
    """A damaged or cut off file raises LZMAError or EOFError as it is read."""
    return _Named(lzma.open(path), path)


def open_zstd(path: Path) -> Reader:
    zstandard = load_zstandard()
    packed = zstandard.ZstdDecompressor(max_window_size=WINDOW).stream_reader(path.open("rb"), read_across_frames=True)
    return _Named(packed, path)


class _Named:
    """Turns what the libraries raise into a BadImage that names the file."""

    def __init__(self, stream: Reader | lzma.LZMAFile, path: Path) -> None:
        self._stream, self._path = stream, path

    def readinto(self, into: memoryview, /) -> int:
        try:
            with zstd_faults(self._path):
                return self._stream.readinto(into)
        except (lzma.LZMAError, EOFError) as error:
            raise BadImage(f"{self._path} is damaged: {error}", hint="fetch it again") from error

    def close(self) -> None:
        self._stream.close()


@contextlib.contextmanager
def zstd_faults(path: Path) -> Iterator[None]:
    """What the zstd library raises becomes a BadImage that names the file."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "ZstdError":  # of a library that is imported only where it is needed
            raise
        raise BadImage(f"{path} is damaged: {error}", hint="fetch it again") from error


def zstd_frames(path: Path) -> list[Frame]:
    """The frames of a file, in order.

    Walks the headers of frames and blocks (RFC 8878, 3.1) without unpacking: the library reads a file that was cut off
    as one that ended. Raises BadImage for it.
    """
    found: list[Frame] = []
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(0)
        while (at := file.tell()) < end:
            head = _exactly(file, 4, path)
            if _skippable(head):
                file.seek(int.from_bytes(_exactly(file, 4, path), "little"), 1)
                continue
            if head != ZSTD_MAGIC:
                raise BadImage(f"{path} is damaged: no zstd frame at byte {at}")
            size, checksum = _frame_header(file, path)
            _skip_blocks(file, path, end)
            _exactly(file, 4 if checksum else 0, path)
            found.append(Frame(at, file.tell() - at, size))
        if file.tell() > end:
            raise _cut_off(path)
    return found


def _frame_header(file: BinaryIO, path: Path) -> tuple[int, bool]:
    """(content size or -1, whether a checksum follows the blocks)."""
    flags = _exactly(file, 1, path)[0]
    single, checksum = bool(flags & 0x20), bool(flags & 0x04)
    _exactly(file, (0 if single else 1) + (0, 1, 2, 4)[flags & 3], path)
    width = (1 if single else 0, 2, 4, 8)[flags >> 6]
    if not width:
        return -1, checksum
    return int.from_bytes(_exactly(file, width, path), "little") + (256 if width == 2 else 0), checksum


def _skip_blocks(file: BinaryIO, path: Path, end: int) -> None:
    last = False
    while not last:
        header = int.from_bytes(_exactly(file, 3, path), "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        if kind == 3:
            raise BadImage(f"{path} is damaged: a block of an unknown kind at byte {file.tell() - 3}")
        if file.seek(1 if kind == 1 else size, 1) > end:
            raise _cut_off(path)


def _skippable(head: bytes) -> bool:
    return len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F


def _exactly(file: BinaryIO, count: int, path: Path) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise _cut_off(path)
    return data


def _cut_off(path: Path) -> BadImage:
    return BadImage(f"{path} was cut off", hint="fetch it again")
