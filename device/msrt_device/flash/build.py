"""A base image from a target: built beside where it belongs, packed, mapped, and moved there whole."""

from __future__ import annotations

import hashlib
import lzma
import os
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from msrt.config import nearest
from msrt.errors import InvalidConfig, LocalError
from msrt_device.flash.targets import MissingTools, Progress, Target
from msrt_device.flash.writing.blockmap import BlockMap
from msrt_device.flash.writing.compressed import load_zstandard
from msrt_device.flash.writing.grid import cut

__all__ = ["Built", "build_image"]

PIECE: Final = 1 << 20
OTHERS: Final = frozenset({".gz", ".bz2", ".zip", ".7z", ".lz4"})
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
    if out.suffix in OTHERS:
        raise InvalidConfig(f"{out}: nothing is packed as {out.suffix} here", hint="use .zst, .xz, or .img for none")
    if missing := target.needs():
        raise MissingTools(target.name, missing)
    if not out.parent.is_dir():
        raise LocalError(f"there is no folder {out.parent}")
    with tempfile.TemporaryDirectory(prefix=".msrt-image-", dir=out.parent) as folder:
        raw, packed = Path(folder) / "raw", Path(folder) / "packed"
        target.build(options, raw, progress)
        blocks = BlockMap.of_file(raw, in_chunks=True)
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
        for size, data in (_zstd if suffix == ".zst" else _xz)(source, total):
            whole.update(data)
            sink.write(data)
            done += size
            progress("pack", done, total)
        sink.flush()
        os.fsync(sink.fileno())
    return whole.hexdigest()


def _zstd(source: BinaryIO, total: int) -> Iterator[tuple[int, bytes]]:
    """(bytes of the image, what they are packed), a frame a chunk: the writer unpacks several at once, and none that
    its block map does not name."""
    zstandard, own = load_zstandard(), threading.local()

    def pack(data: bytes) -> bytes:
        if not hasattr(own, "packer"):  # one for each thread
            own.packer = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
        made: bytes = own.packer.compress(data)
        return made

    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads, "pack") as pool:
        coming = deque[tuple[int, Future[bytes]]]()
        for _, length in cut(0, total):
            coming.append((length, pool.submit(pack, source.read(length))))
            if len(coming) > 2 * threads:
                size, packed = coming.popleft()
                yield size, packed.result()
        yield from ((size, packed.result()) for size, packed in coming)


def _xz(source: BinaryIO, _total: int) -> Iterator[tuple[int, bytes]]:
    made = lzma.LZMACompressor()
    while data := source.read(PIECE):
        yield len(data), made.compress(data)
    yield 0, made.flush()
