"""What lies on the disk for a while: one suite for both disks, and what only files do."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from msrt.errors import DiskFull, LocalError
from msrt.world.files import FieldDisk
from msrt.world.memory import MemoryDisk
from msrt.world.scratch import SLOTS


def test_what_was_put_is_read_as_it_was(rig):
    """Hundreds of pieces of any length up to the slot's, each under its own key; a second one replaces the first."""
    scratch = rig.disk.scratch(300)
    pieces = {f"k{n}": os.urandom(n) for n in range(300)}
    views = {key: scratch.put(key, piece) for key, piece in pieces.items()}
    scratch.release()
    assert {key: bytes(view) for key, view in views.items()} == pieces
    assert bytes(scratch.put("k7", b"other")) == b"other"
    scratch.close()


def test_what_is_looked_at_outlives_the_end(rig):
    """A round may close while its updates are still being read."""
    scratch = rig.disk.scratch(10)
    view = scratch.put("k", b"0123456789")
    scratch.free("k")
    scratch.close()
    assert bytes(view) == b"0123456789"


def test_a_full_memory_disk_says_so():
    """And takes it later."""
    disk = MemoryDisk()
    scratch = disk.scratch(10)
    disk.full = True
    with pytest.raises(DiskFull):
        scratch.put("k", b"1")
    disk.full = False
    assert bytes(scratch.put("k", b"1")) == b"1"


def test_the_room_of_what_was_freed_is_used_again(tmp_path):
    """A file does not grow by what is refused again and again; and it has no name that a crash could leave behind."""
    disk = FieldDisk(tmp_path)
    scratch = disk.scratch(5000)
    for n in range(10 * SLOTS):
        scratch.put("k", bytes([n % 256]) * 5000)
        scratch.free("k")
    assert os.fstat(scratch._fd).st_size == SLOTS * 8192
    assert [path.name for path in tmp_path.iterdir()] == []
    scratch.close()


def test_a_piece_that_does_not_fit_is_refused(tmp_path):
    """By its size."""
    scratch = FieldDisk(tmp_path).scratch(10)
    with pytest.raises(LocalError, match="11 bytes for a slot of 10"):
        scratch.put("k", bytes(11))
    scratch.close()


def test_a_full_file_system_says_so_and_keeps_its_room(tmp_path):
    """By the largest file that this process may write; after that as before."""
    code = f"""
import resource
from pathlib import Path
from msrt.errors import DiskFull
from msrt.world.files import FieldDisk
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
scratch = FieldDisk(Path({str(tmp_path)!r})).scratch(4096)
kept = scratch.put("kept", b"kept")
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
for _ in range(3):
    try:
        scratch.put("a", bytes(4096)), scratch.put("b", bytes(4096))
    except DiskFull:
        print("full")
    scratch.free("a")
print(bytes(kept).decode())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["full", "full", "full", "kept"]


def test_what_was_read_leaves_memory_when_it_is_let_go(tmp_path):
    """64 MiB pass through a process that never holds more than some of them."""
    scratch = FieldDisk(tmp_path).scratch(1 << 20)
    piece = np.ones(1 << 17, np.float64)
    views = [scratch.put(f"k{n}", piece.data) for n in range(64)]
    before = _resident()
    total = 0.0
    for view in views:
        total += np.frombuffer(view).sum()
        scratch.release()
    assert total == 64 * (1 << 17)
    assert _resident() - before < 16 << 20
    scratch.close()


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - one line
        return int(file.read().split()[1]) * resource.getpagesize()


def test_threads_that_write_at_once_get_slots_of_their_own(tmp_path):
    """Also while the room grows, and while others are freed."""
    scratch = FieldDisk(tmp_path).scratch(100)

    def work(number):
        kept = {}
        for turn in range(100):
            key = f"{number}/{turn}"
            kept[key] = scratch.put(key, key.encode())
            if turn % 3 == 0:
                scratch.free(key)
                del kept[key]
        return kept

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(8)))
    assert all(bytes(view) == key.encode() for kept in found for key, view in kept.items())


def test_who_still_writes_at_the_end_writes_to_no_other_file(tmp_path):
    """The descriptor is closed when nobody can use it any more, and then it is."""
    scratch = FieldDisk(tmp_path).scratch(100)
    fd = scratch._fd
    scratch.put("k", b"1")
    scratch.close()
    assert bytes(scratch.put("late", b"late")) == b"late"
    del scratch
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
