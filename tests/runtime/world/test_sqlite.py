"""What only the SQLite store can show: real crashes, real files, threads, speed."""

from __future__ import annotations

import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time

import pytest

from msrt.errors import Corrupt, DiskFull, InvalidAddress, LocalError, StateNewer
from msrt.world.files import FieldDisk
from msrt.world.sqlite import SqliteStore

WRITER = """
import sys
from pathlib import Path
from msrt.world.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
while True:
    for _ in range(50):
        last = store.append("log", bytes(200))
    store.put("last", b"%d" % last)
    store.commit()
    print(last, flush=True)
"""


def test_a_killed_writer_keeps_every_commit(tmp_path):
    """SIGKILL in the middle of writing: everything whose commit returned is there, and each batch is whole."""
    path = tmp_path / "s.sqlite"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as child:
        acknowledged = [int(child.stdout.readline()) for _ in range(20)][-1]
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()
    acknowledged = max([acknowledged, *map(int, rest)])
    store = SqliteStore(path)
    offsets = [offset for offset, _ in store.read("log", limit=1_000_000)]
    assert offsets == list(range(1, len(offsets) + 1))
    assert len(offsets) >= acknowledged
    assert len(offsets) % 50 == 0
    assert store.scan("last") == [("last", b"%d" % len(offsets))]
    store.close()


def test_100_000_small_records_in_well_under_2_s(tmp_path):
    """Appending and committing 100,000 records in batches is quick, and so is reading them back."""
    store = SqliteStore(tmp_path / "s.sqlite")
    started = time.perf_counter()
    for number in range(100_000):
        store.append("log", b"%064d" % number)
        if number % 1000 == 999:
            store.commit()
    wrote = time.perf_counter() - started
    assert len(store.read("log", limit=200_000)) == 100_000
    assert wrote < 2.0
    store.close()


def test_appends_go_on_during_a_commit(tmp_path):
    """Records appended while another thread commits are read at once, kept, and never seen twice."""
    store = SqliteStore(tmp_path / "s.sqlite")
    stop = threading.Event()

    def commits():
        while not stop.is_set():
            store.commit()

    thread = threading.Thread(target=commits)
    thread.start()
    try:
        for number in range(1, 3001):
            assert store.append("log", b"x") == number
            seen = store.read("log", after=max(0, number - 5))
            assert [offset for offset, _ in seen] == list(range(max(1, number - 4), number + 1))
    finally:
        stop.set()
        thread.join()
    store.commit()
    assert [offset for offset, _ in store.read("log", limit=5000)] == list(range(1, 3001))
    store.close()


def test_trim_gives_the_space_back(tmp_path):
    """A log that is written and trimmed for long stays small on disk."""
    path = tmp_path / "s.sqlite"
    store = SqliteStore(path)
    for _ in range(5):
        for _ in range(2000):
            last = store.append("log", bytes(1000))
        store.commit()
        store.trim("log", last)
        store.commit()
    store.close()
    assert path.stat().st_size < 1 << 20


def test_a_quota_is_a_full_disk_and_trimming_helps(tmp_path):
    """Over `max_bytes` a commit raises DiskFull; what a trim frees in the same commit may be used by it."""
    store = SqliteStore(tmp_path / "s.sqlite", max_bytes=256 << 10)
    for _ in range(8):
        store.append("log", bytes(20_000))
    store.commit()
    for _ in range(8):
        store.append("log", bytes(20_000))
    with pytest.raises(DiskFull, match="took no more"):
        store.commit()
    assert len(store.read("log")) == 16
    store.trim("log", 8)
    store.commit()
    assert [offset for offset, _ in store.read("log")] == list(range(9, 17))
    store.close()


def test_files_are_private(tmp_path):
    """The state directory is 0700 and the store, with its log, 0600."""
    disk = FieldDisk(tmp_path / "state")
    disk.store("s").put("k", b"v")
    disk.store("s").commit()
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    for file in (tmp_path / "state").glob("s.sqlite*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    disk.close()


def test_a_newer_format_is_refused(tmp_path):
    """A file written by a later version is not touched."""
    path = tmp_path / "s.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StateNewer, match="format 99"):
        SqliteStore(path)


def test_a_damaged_file_says_so(tmp_path):
    """A file that is no database raises Corrupt with its path and what to do."""
    path = tmp_path / "s.sqlite"
    path.write_bytes(b"not a database, but long enough to be looked at " * 100)
    with pytest.raises(Corrupt, match="restore it"):
        SqliteStore(path)


def test_a_directory_that_cannot_be_is_a_local_error(tmp_path):
    """A state directory below a file is this machine's fault, in one sentence."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError, match="Not a directory"):
        FieldDisk(tmp_path / "file" / "state")


def test_store_names_cannot_leave_the_directory(tmp_path):
    """A store name is a plain word."""
    with pytest.raises(InvalidAddress):
        FieldDisk(tmp_path).store("../elsewhere")
