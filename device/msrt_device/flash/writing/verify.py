"""What the medium holds, read back past every cache and held against what was written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from msrt_device.flash.writing.errors import NotVerified
from msrt_device.flash.writing.medium import Sink
from msrt_device.flash.writing.writer import Progress, Range

__all__ = ["verify"]


def verify(ranges: Sequence[Range], sink: Sink, progress: Progress) -> None:
    """Raises NotVerified naming the first range that differs, MediumFailed. One read is always ahead of the hash."""
    total = sum(one.length for one in ranges)
    done = 0
    for range_, data in _read_ahead(ranges, sink):
        if len(data) != range_.length or hashlib.sha256(data).digest() != range_.digest:
            raise NotVerified(range_.offset, range_.length)
        done += range_.length
        progress("verify", done, total)


def _read_ahead(ranges: Sequence[Range], sink: Sink) -> Iterator[tuple[Range, bytes]]:
    with ThreadPoolExecutor(1, "read-back") as reader:
        coming: tuple[Range, Future[bytes]] | None = None
        for range_ in ranges:
            future = reader.submit(sink.read, range_.offset, range_.length)
            if coming is not None:
                yield coming[0], coming[1].result()
            coming = (range_, future)
        if coming is not None:
            yield coming[0], coming[1].result()
