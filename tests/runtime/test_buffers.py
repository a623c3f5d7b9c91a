"""Large copies that let other threads run."""

from __future__ import annotations

import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt.buffers import SLICE, Rooms, joined, read_file, write_file


@given(st.lists(st.binary(max_size=9)))
def test_it_is_all_of_them_in_their_order(pieces):
    """Whatever kind of buffer they are, and nobody writes to it afterwards."""
    whole = joined(
        kind(piece) for kind, piece in zip(itertools.cycle([bytes, bytearray, memoryview]), pieces, strict=False)
    )
    assert bytes(whole) == b"".join(pieces)
    assert whole.readonly


def test_others_run_meanwhile():
    """A thread that wakes up every millisecond does so while a quarter of a gigabyte is copied in one go."""
    woken, over = 0, threading.Event()

    def watch():
        nonlocal woken
        while not over.wait(0.001):
            woken += 1

    piece = bytes(256 << 20)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        before = woken
        joined([piece])
        during = woken - before
    finally:
        over.set()
        watcher.join()
    assert during > 3


@pytest.mark.parametrize("size", [0, 1, SLICE, SLICE + 1, 3 * SLICE + 5])
def test_a_file_is_read_as_it_was_written(size, tmp_path):
    """Of any size, and in its place where there was one."""
    path, data = tmp_path / "file", bytes(range(251)) * (size // 251 + 1)
    write_file(path, b"something longer than nothing")
    inode = path.stat().st_ino
    write_file(path, memoryview(data)[:size])
    assert path.stat().st_ino == inode
    assert bytes(read_file(path)) == data[:size] == path.read_bytes()


def test_a_room_is_used_again():
    """One that is given back is the next of its size; of another size, or not of here, none is kept."""
    rooms = Rooms(1)
    first = rooms.take(8192)
    first[:3] = b"old"
    rooms.give(first)
    assert rooms.take(8192) is first
    rooms.give(first)
    rooms.give(memoryview(bytearray(8192)))
    assert len(rooms.take(4096)) == 4096
    rooms.clear()
    assert rooms.take(8192) is not first
