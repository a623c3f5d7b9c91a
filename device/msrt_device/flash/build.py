"""A base image from a target: built beside where it belongs, packed, mapped, and moved there whole."""

from __future__ import annotations

import hashlib
import lzma
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from msrt.config import nearest
from msrt.errors import InvalidConfig, LocalError
from msrt_device.flash.targets import MissingTools, Progress, Target
from msrt_device.flash.writing.blockmap import BlockMap
from msrt_device.flash.writing.compressed import load_zstandard

__all__ = ["Built", "build_image"]

PIECE: Final = 1 << 20
ZSTD_LEVEL: Final = 15
"""Where more costs minutes and gains a few percent."""


@dataclass(frozen=True)
class Built:
    """What was made."""

    path: Path
    size: int
    """Bytes of the file."""
    image_size: int
    """Bytes of the image when it is unpacked."""
    mapped: int
    """Of those, the bytes that hold something."""
    sha256: str


def build_image(target: Target, options: Mapping[str, str], out: Path, progress: Progress) -> Built:
    """Build, then pack as the suffix says (.zst, .xz, none), with a block map beside it where there are holes.

    Raises MissingTools, InvalidConfig (an option that the target does not have), LocalError.
    """
    for key in options:
        if key not in target.options:
            hint = f"did you mean {nearest(key, target.options)!r}?" if target.options else "it takes no --set"
            raise InvalidConfig(f"{target.name} has no option {key!r}", hint=hint)
    if missing := target.needs():
        raise MissingTools(target.name, missing)
    if not out.parent.is_dir():
        raise LocalError(f"there is no folder {out.parent}")
    with tempfile.TemporaryDirectory(prefix=".msrt-image-", dir=out.parent) as folder:
        raw, packed = Path(folder) / "raw", Path(folder) / "packed"
        target.build(options, raw, progress)
        blocks = BlockMap.of_file(raw)
        mapped = sum(extent.length for extent in blocks.extents)
        digest = _pack(raw, packed, out.suffix, progress)
        bmap = out.with_name(out.name + ".bmap")
        if mapped < blocks.size:
            draft = Path(folder) / "bmap"
            draft.write_text(blocks.render())
            draft.replace(bmap)
        else:
            bmap.unlink(missing_ok=True)
        size = packed.stat().st_size
        packed.replace(out)
    return Built(out, size, blocks.size, mapped, digest)


def _pack(raw: Path, packed: Path, suffix: str, progress: Progress) -> str:
    """SHA-256 of the packed file, hex."""
    whole, total, done = hashlib.sha256(), raw.stat().st_size, 0
    if suffix not in {".zst", ".xz"}:
        raw.rename(packed)
        with packed.open("rb") as file:
            while data := file.read(PIECE):
                whole.update(data)
        return whole.hexdigest()
    with raw.open("rb") as source, packed.open("wb") as sink:
        pack, finish = _zstd(total) if suffix == ".zst" else _xz()
        while data := source.read(PIECE):
            _write(sink, whole, pack(data))
            done += len(data)
            progress("pack", done, total)
        _write(sink, whole, finish())
        sink.flush()
        os.fsync(sink.fileno())
    return whole.hexdigest()


def _write(sink: BinaryIO, whole: hashlib._Hash, data: bytes) -> None:
    whole.update(data)
    sink.write(data)


def _zstd(total: int) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    zstandard = load_zstandard()
    made = zstandard.ZstdCompressor(level=ZSTD_LEVEL, threads=-1, write_checksum=True).compressobj(size=total)
    return made.compress, made.flush


def _xz() -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    made = lzma.LZMACompressor()
    return made.compress, made.flush
