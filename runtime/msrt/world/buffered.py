"""What both stores share: the buffer between `append` and `commit`.

The buffer lives in memory, is read together with what is on disk, and is handed to the disk as one `Batch`. While a
commit runs in a thread the loop may go on appending: the batch in flight and the pending one are two objects, and
nothing but a swap of them happens under the lock.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from msrt.errors import MsrtError

__all__ = ["Batch", "BufferedStore"]

Record = tuple[int, bytes]


@dataclass(slots=True)
class Batch:
    """Everything asked for since a commit took the last batch."""

    records: dict[str, list[Record]] = field(default_factory=dict)
    """Per log, offsets without a gap."""
    floors: dict[str, int] = field(default_factory=dict)
    """Per log, the offset up to which records are forgotten."""
    last: dict[str, int] = field(default_factory=dict)
    """Per touched log, the highest offset ever given."""
    pairs: dict[str, bytes | None] = field(default_factory=dict)
    """None deletes the key."""

    def __bool__(self) -> bool:
        return bool(self.records or self.floors or self.pairs)

    def add(self, later: Batch) -> None:
        """Put a later batch behind this one."""
        for log, records in later.records.items():
            self.records.setdefault(log, []).extend(records)
        for log, floor in later.floors.items():
            self.trim(log, floor)
        self.last.update(later.last)
        self.pairs.update(later.pairs)

    def trim(self, log: str, upto: int) -> None:
        self.floors[log] = max(upto, self.floors.get(log, 0))
        records = self.records.get(log)
        if records and records[0][0] <= upto:
            del records[: upto - records[0][0] + 1]


class BufferedStore(ABC):
    """A `Store` over some medium that can read, and write one batch whole or not at all."""

    def __init__(self, last: dict[str, int]) -> None:
        self._last = last
        self._pending = Batch()
        self._flying: Batch | None = None
        self._lock = threading.Lock()
        self._committing = threading.Lock()

    @abstractmethod
    def _write(self, batch: Batch) -> None:
        """Make the batch durable, whole or not at all. Trims go first: their space may be what the rest needs."""

    @abstractmethod
    def _rows(self, log: str, after: int, limit: int) -> list[Record]:
        """Durable records with offset > after, in order."""

    @abstractmethod
    def _pairs(self, prefix: str) -> list[tuple[str, bytes]]:
        """Durable pairs under a prefix."""

    def append(self, log: str, record: bytes) -> int:
        """Add a record to the buffer; returns its offset."""
        with self._lock:
            offset = self._last.get(log, 0) + 1
            self._last[log] = self._pending.last[log] = offset
            records = self._pending.records.get(log)
            if records is None:
                self._pending.records[log] = [(offset, record)]
            else:
                records.append((offset, record))
            return offset

    def put(self, key: str, value: bytes | None) -> None:
        with self._lock:
            self._pending.pairs[key] = value

    def trim(self, log: str, upto: int) -> None:
        with self._lock:
            last = self._last.get(log, 0)
            if upto > 0 and last:
                self._pending.trim(log, min(upto, last))
                self._pending.last[log] = last

    def commit(self) -> None:
        """Write the buffer. When it fails, the buffer is as it was and a later commit tries again."""
        with self._committing:
            with self._lock:
                if not self._pending:
                    return
                batch = self._flying = self._pending
                self._pending = Batch()
            try:
                self._write(batch)
            except MsrtError:
                with self._lock:
                    batch.add(self._pending)
                    self._pending, self._flying = batch, None
                raise
            with self._lock:
                self._flying = None

    def read(self, log: str, after: int = 0, limit: int = 1000) -> Sequence[Record]:
        """Records with offset > after. The buffer is looked at first: what a commit moves meanwhile is seen twice,
        and sorted out here, but never missed."""
        with self._lock:
            after = max([after, *(batch.floors.get(log, 0) for batch in self._batches())])
            buffered: list[Record] = []
            reaches = False
            for batch in self._batches():
                records = batch.records.get(log)
                if records:
                    reaches = reaches or records[0][0] <= after + 1
                    start = max(0, after + 1 - records[0][0])
                    buffered += records[start : start + limit]
            if not buffered and self._last.get(log, 0) <= after:
                return []
        if reaches:
            return buffered[:limit]
        rows = self._rows(log, after, limit)
        edge = rows[-1][0] if rows else after
        rows += [record for record in buffered if record[0] > edge]
        return rows[:limit]

    def scan(self, prefix: str = "") -> Sequence[tuple[str, bytes]]:
        with self._lock:
            changed = {
                key: value for batch in self._batches() for key, value in batch.pairs.items() if key.startswith(prefix)
            }
        found: dict[str, bytes | None] = dict(self._pairs(prefix))
        found.update(changed)
        return sorted((key, value) for key, value in found.items() if value is not None)

    def _batches(self) -> Iterator[Batch]:
        if self._flying is not None:
            yield self._flying
        yield self._pending
