"""What every Store promises, on SQLite and in memory."""

from __future__ import annotations

import pytest

from msrt.errors import DiskFull


def test_offsets_count_from_one_per_log(rig):
    """Each log numbers its own records 1, 2, 3."""
    store = rig.disk.store("s")
    assert [store.append("a", b"x"), store.append("b", b"y"), store.append("a", b"z")] == [1, 1, 2]


def test_buffer_is_read_at_once(rig):
    """What was appended and put is seen before any commit."""
    store = rig.disk.store("s")
    store.append("a", b"one")
    store.put("k", b"v")
    assert store.read("a") == [(1, b"one")]
    assert store.scan("k") == [("k", b"v")]


def test_reads_join_disk_and_buffer(rig):
    """A read runs from committed records into the buffer without a seam, by offset and limit."""
    store = rig.disk.store("s")
    for number in range(1, 7):
        store.append("a", b"%d" % number)
        if number in {2, 4}:
            store.commit()
    assert [offset for offset, _ in store.read("a")] == [1, 2, 3, 4, 5, 6]
    assert store.read("a", after=3, limit=2) == [(4, b"4"), (5, b"5")]
    assert store.read("a", after=4, limit=1) == [(5, b"5")]
    assert store.read("a", after=6) == []


def test_unknown_log_is_empty(rig):
    """A log nobody wrote reads as empty, and trimming it does nothing."""
    store = rig.disk.store("s")
    store.trim("nothing", 5)
    store.commit()
    assert store.read("nothing") == []
    assert store.append("nothing", b"first") == 1


def test_scan_is_by_prefix_in_key_order(rig):
    """Keys come sorted, buffered changes over committed ones, deleted ones not at all."""
    store = rig.disk.store("s")
    for key in ("n/b", "n/a", "m/x", "n/ä", "o"):
        store.put(key, key.encode())
    store.commit()
    store.put("n/b", None)
    store.put("n/a", b"new")
    store.put("n/c", b"c")
    assert store.scan("n/") == [("n/a", b"new"), ("n/c", b"c"), ("n/ä", "n/ä".encode())]
    store.commit()
    assert [key for key, _ in store.scan()] == ["m/x", "n/a", "n/c", "n/ä", "o"]


def test_commit_survives_a_crash_and_the_rest_does_not(rig):
    """After a crash there is what was committed, logs and keys alike, and nothing else."""
    store = rig.disk.store("s")
    store.append("a", b"kept")
    store.put("k", b"kept")
    store.commit()
    store.append("a", b"lost")
    store.put("k", b"lost")
    store.trim("a", 1)
    rig.crash()
    store = rig.disk.store("s")
    assert store.read("a") == [(1, b"kept")]
    assert store.scan() == [("k", b"kept")]


def test_offsets_are_never_used_again(rig):
    """A log that was trimmed empty goes on counting, also after a restart."""
    store = rig.disk.store("s")
    for _ in range(3):
        store.append("a", b"x")
    store.trim("a", 3)
    store.commit()
    assert store.read("a") == []
    rig.crash()
    store = rig.disk.store("s")
    assert store.read("a") == []
    assert store.append("a", b"next") == 4
    assert store.read("a") == [(4, b"next")]


def test_trim_is_seen_at_once(rig):
    """Trimmed records are gone from reads before the commit that removes them."""
    store = rig.disk.store("s")
    for number in range(4):
        store.append("a", b"%d" % number)
    store.commit()
    store.append("a", b"4")
    store.trim("a", 2)
    assert [offset for offset, _ in store.read("a")] == [3, 4, 5]
    store.trim("a", 4)
    assert [offset for offset, _ in store.read("a")] == [5]
    store.commit()
    assert [offset for offset, _ in store.read("a")] == [5]


def test_trim_past_the_end_stops_there(rig):
    """Trimming more than there is forgets all and nothing that is appended later."""
    store = rig.disk.store("s")
    store.append("a", b"1")
    store.trim("a", 99)
    assert store.append("a", b"2") == 2
    store.commit()
    assert store.read("a") == [(2, b"2")]


def test_a_full_disk_loses_nothing(rig):
    """DiskFull leaves the buffer readable and whole; the next commit with room writes all of it, in order."""
    store = rig.disk.store("s")
    store.append("a", b"before")
    store.put("k", b"old")
    store.commit()
    rig.full(True)
    store.append("a", bytes(300_000))
    store.put("k", b"new")
    with pytest.raises(DiskFull):
        store.commit()
    store.append("a", b"after")
    assert [offset for offset, _ in store.read("a")] == [1, 2, 3]
    with pytest.raises(DiskFull):
        store.commit()
    rig.full(False)
    store.commit()
    rig.crash()
    store = rig.disk.store("s")
    assert [(offset, len(record)) for offset, record in store.read("a")] == [(1, 6), (2, 300_000), (3, 5)]
    assert store.scan("k") == [("k", b"new")]


def test_a_full_disk_keeps_a_trim_for_later(rig):
    """A trim that could not be committed is still seen, and done with the next commit."""
    store = rig.disk.store("s")
    for _ in range(3):
        store.append("a", b"x")
    store.commit()
    rig.full(True)
    store.trim("a", 1)
    store.append("b", bytes(300_000))
    with pytest.raises(DiskFull):
        store.commit()
    store.trim("a", 2)
    assert [offset for offset, _ in store.read("a")] == [3]
    rig.full(False)
    store.commit()
    rig.crash()
    assert [offset for offset, _ in rig.disk.store("s").read("a")] == [3]


def test_stores_of_one_disk_are_apart(rig):
    """Two stores of one disk share nothing; one name gives one store."""
    one, two = rig.disk.store("s"), rig.disk.store("t")
    one.append("a", b"x")
    assert two.read("a") == []
    assert rig.disk.store("s") is one


def test_empty_commit_is_nothing(rig):
    """Committing an empty buffer works, also on a full disk."""
    store = rig.disk.store("s")
    store.commit()
    rig.full(True)
    store.commit()
