"""What was written so far, so that a second try need not begin anew.

A file a pair of image and medium, in the state directory of whoever flashes, and not on the medium: that has no place
for it. It is a hint and no more: a range is skipped only when the image's bytes still have the digest that was written,
a range or two are read back before any is believed, and the verification at the end reads all of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import msgspec

from msrt_device.flash.writing.medium import Medium, Sink
from msrt_device.flash.writing.writer import Range

__all__ = ["Forgetful", "Journal"]


class _Line(msgspec.Struct, frozen=True, array_like=True):
    offset: int
    length: int
    digest: bytes


class Forgetful:
    """Remembers nothing: for media that are written in a moment."""

    fresh = True
    zeroed = False

    def has(self, range_: Range) -> bool:  # noqa: ARG002
        return False

    def note(self, range_: Range) -> None: ...

    def commit(self) -> None: ...

    def begin(self, *, zeroed: bool) -> None:
        self.zeroed = zeroed


class Journal:
    """Of one image on one medium."""

    def __init__(self, path: Path, found: list[_Line], *, zeroed: bool) -> None:
        self.path = path
        self.fresh = not found
        self.zeroed = zeroed
        self._had = {line.offset: line for line in found}
        self._noted: list[_Line] = []

    @classmethod
    def of(cls, folder: Path, image: Path, medium: Medium) -> Journal:
        """The journal for this pair, empty where there was no earlier try."""
        seen, disk = image.stat(), medium.disk
        where = f"{disk.name} {disk.size} {disk.model} {disk.serial}" if disk else str(medium.path.resolve())
        pair = f"{image.resolve()} {seen.st_size} {seen.st_mtime_ns} on {where}"
        path = folder / f"{hashlib.sha256(pair.encode()).hexdigest()[:32]}.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        found: list[_Line] = []
        for line in lines[1:]:
            with contextlib.suppress(msgspec.DecodeError):  # the last one may have been cut off
                found.append(msgspec.json.decode(line, type=_Line))
        return cls(path, found, zeroed=lines[:1] == [b"zeroed\n"])

    def believe(self, sink: Sink) -> bool:
        """Read back the first and the last range that are said to be there: else it is another medium."""
        ends = [self._had[min(self._had)], self._had[max(self._had)]] if self._had else []
        if all(hashlib.sha256(sink.read(one.offset, one.length)).digest() == one.digest for one in ends):
            return bool(ends)
        self._had, self.fresh = {}, True
        return False

    @property
    def bytes(self) -> int:
        """What an earlier try has written."""
        return sum(line.length for line in self._had.values())

    def has(self, range_: Range) -> bool:
        return self._had.get(range_.offset) == _Line(range_.offset, range_.length, range_.digest)

    def note(self, range_: Range) -> None:
        self._noted.append(_Line(range_.offset, range_.length, range_.digest))

    def begin(self, *, zeroed: bool) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.write_bytes(b"zeroed\n" if zeroed else b"as it was\n")
        self.zeroed = zeroed

    def commit(self) -> None:
        with self.path.open("ab") as file:
            file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in self._noted))
            file.flush()
            os.fsync(file.fileno())
        self._noted = []

    def forget(self) -> None:
        """The image is on the medium, or the medium is not to be believed."""
        self.path.unlink(missing_ok=True)
