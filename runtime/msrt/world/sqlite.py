"""The store of the field: SQLite, WAL, fsync on every commit. The only file that imports sqlite3."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from msrt.errors import Corrupt, DiskFull, LocalError, MsrtError, StateNewer
from msrt.world.buffered import Batch, BufferedStore, Record
from msrt.world.files import disk_error, sync_directory

__all__ = ["SqliteStore"]

SCHEMA_VERSION: Final = 1
PAGE: Final = 4096
WAL_KEEP: Final = 4 << 20
"""Bytes of write-ahead log kept after a checkpoint; a large commit grows it for a while."""
RECLAIM_PAGES: Final = 256
"""Free pages from which a trim gives space back to the file system; fewer are just used again."""
LOG_SHIFT: Final = 40
"""A record's row id is `log id << 40 | offset`: one integer key, so a range of a log is a range of the table."""

_SCHEMA: Final = """
CREATE TABLE logs (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, last INTEGER NOT NULL);
CREATE TABLE records (id INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE pairs (key TEXT PRIMARY KEY, value BLOB NOT NULL);
"""
_FULL: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})
_BROKEN: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class SqliteStore(BufferedStore):
    """A `Store` in one SQLite file.

    Two connections: commits use one from whatever thread `offload` gives them, reads the other, so that a read on
    the event loop never waits for an fsync. `max_bytes` bounds the file; beyond it commits raise DiskFull.
    """

    def __init__(self, path: Path, *, max_bytes: int = 0) -> None:
        self._path = path
        self._reading = threading.Lock()
        with self._errors():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._writer = _connect(path)
            self._prepare(max_bytes)
            self._reader = _connect(path)
            rows = self._writer.execute("SELECT name, id, last FROM logs").fetchall()
        self._ids: dict[str, int] = {name: log for name, log, _ in rows}
        super().__init__({name: last for name, _, last in rows})

    def close(self) -> None:
        """Close the file. What was not committed is dropped."""
        with self._committing, self._reading, self._errors():
            self._reader.close()
            self._writer.close()

    def _prepare(self, max_bytes: int) -> None:
        found: int = self._writer.execute("PRAGMA user_version").fetchone()[0]
        if found > SCHEMA_VERSION:
            raise StateNewer(f"{self._path} has format {found}, this msrt knows {SCHEMA_VERSION}")
        if not found:
            self._writer.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute("PRAGMA synchronous = FULL")
        self._writer.execute(f"PRAGMA journal_size_limit = {WAL_KEEP}")
        if max_bytes:
            self._writer.execute(f"PRAGMA max_page_count = {max(8, max_bytes // PAGE)}")
        if not found:
            self._writer.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
            sync_directory(self._path.parent)

    def _write(self, batch: Batch) -> None:
        with self._errors():
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                fresh = self._write_logs(batch)
                gone = [(key,) for key, value in batch.pairs.items() if value is None]
                kept = [(key, value) for key, value in batch.pairs.items() if value is not None]
                self._writer.executemany("DELETE FROM pairs WHERE key = ?", gone)
                self._writer.executemany("INSERT OR REPLACE INTO pairs VALUES (?, ?)", kept)
                self._writer.execute("COMMIT")
            finally:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
        self._ids.update(fresh)
        if batch.floors:
            self._reclaim()

    def _write_logs(self, batch: Batch) -> dict[str, int]:
        """Trim, number and insert; returns the row ids of logs that are new with this batch."""
        fresh: dict[str, int] = {}
        for name, last in batch.last.items():
            if name in self._ids:
                self._writer.execute("UPDATE logs SET last = ? WHERE id = ?", (last, self._ids[name]))
            else:
                cursor = self._writer.execute("INSERT INTO logs (name, last) VALUES (?, ?)", (name, last))
                fresh[name] = cursor.lastrowid or 0
        ids = {**self._ids, **fresh}
        for name, floor in batch.floors.items():
            base = ids[name] << LOG_SHIFT
            self._writer.execute("DELETE FROM records WHERE id > ? AND id <= ?", (base, base + floor))
        for name, records in batch.records.items():
            base = ids[name] << LOG_SHIFT
            rows = ((base + offset, record) for offset, record in records)
            self._writer.executemany("INSERT INTO records VALUES (?, ?)", rows)
        return fresh

    def _reclaim(self) -> None:
        """Give free pages back to the file system. The commit is done: a failure here loses only space."""
        try:
            free: int = self._writer.execute("PRAGMA freelist_count").fetchone()[0]
            total: int = self._writer.execute("PRAGMA page_count").fetchone()[0]
            if free > RECLAIM_PAGES and free > total // 4:
                self._writer.executescript("PRAGMA incremental_vacuum")  # `execute` would stop after one page
        except sqlite3.OperationalError:
            return

    def _rows(self, log: str, after: int, limit: int) -> list[Record]:
        name = self._ids.get(log)
        if name is None:
            return []
        base = name << LOG_SHIFT
        query = "SELECT id - ?, record FROM records WHERE id > ? AND id < ? ORDER BY id LIMIT ?"
        with self._reading, self._errors():
            return self._reader.execute(query, (base, base + after, base + (1 << LOG_SHIFT), limit)).fetchall()

    def _pairs(self, prefix: str) -> list[tuple[str, bytes]]:
        query = "SELECT key, value FROM pairs WHERE key >= ? AND key < ?"
        with self._reading, self._errors():
            return self._reader.execute(query, (prefix, prefix + "\U0010ffff")).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise _translated(error, self._path) from error


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)


def _translated(error: sqlite3.Error | OSError, path: Path) -> MsrtError:
    if isinstance(error, OSError):
        return disk_error(error, path)
    code = getattr(error, "sqlite_errorcode", 0)
    if code in _FULL:
        return DiskFull(f"the disk took no more of {path}")
    if code & 0xFF in _BROKEN:
        return Corrupt(f"{path} is damaged: {error}", hint="restore it from a copy, or remove it and join again")
    return LocalError(f"{path}: {error}")
