"""What Blobs promise, on files and in memory."""

from __future__ import annotations

import hashlib
import os

import pytest

from msrt.errors import Conflict, Corrupt, InvalidAddress, NotFound
from msrt.world.files import FieldDisk, FileBlobs

DATA = bytes(range(256)) * 40
DIGEST = hashlib.sha256(DATA).hexdigest()


def test_written_verified_read(rig):
    """A blob arrives in pieces, is published whole, and is read by range."""
    blobs = rig.disk.blobs()
    assert blobs.size(DIGEST) is None
    blobs.write(DIGEST, 0, DATA[:1000])
    assert blobs.partial(DIGEST) == 1000
    blobs.write(DIGEST, 1000, memoryview(DATA)[1000:])
    assert blobs.size(DIGEST) is None
    blobs.finish(DIGEST)
    assert (blobs.size(DIGEST), blobs.partial(DIGEST)) == (len(DATA), 0)
    assert blobs.read(DIGEST) == DATA
    assert blobs.read(DIGEST, 256, 256) == DATA[256:512]
    assert list(rig.disk.digests()) == [(DIGEST, len(DATA))]


def test_a_partial_blob_goes_on_after_a_restart(rig):
    """What was written before a restart need not be written again, and is verified with the rest."""
    rig.disk.blobs().write(DIGEST, 0, DATA[:5000])
    rig.crash()
    blobs = rig.disk.blobs()
    assert blobs.partial(DIGEST) == 5000
    blobs.write(DIGEST, 5000, DATA[5000:])
    blobs.finish(DIGEST)
    assert blobs.read(DIGEST) == DATA


def test_pieces_may_overlap(rig):
    """A piece sent twice, or sent again from further back, changes nothing."""
    blobs = rig.disk.blobs()
    blobs.write(DIGEST, 0, DATA[:600])
    blobs.write(DIGEST, 0, DATA[:600])
    blobs.write(DIGEST, 300, DATA[300:])
    blobs.finish(DIGEST)
    assert blobs.read(DIGEST) == DATA


def test_a_gap_is_refused(rig):
    """A piece behind a hole raises Conflict and writes nothing."""
    blobs = rig.disk.blobs()
    with pytest.raises(Conflict, match="gap"):
        blobs.write(DIGEST, 10, b"x")
    assert blobs.partial(DIGEST) == 0


def test_a_wrong_digest_is_found_and_forgotten(rig):
    """Bytes that are not what the name says raise Corrupt; the partial is gone, a new fetch starts at 0."""
    blobs = rig.disk.blobs()
    blobs.write(DIGEST, 0, DATA[:-1] + b"?")
    with pytest.raises(Corrupt, match="fetch it again"):
        blobs.finish(DIGEST)
    assert (blobs.size(DIGEST), blobs.partial(DIGEST)) == (None, 0)


def test_finish_twice_is_once(rig):
    """Finishing a whole blob again does nothing; finishing one that never began is NotFound."""
    blobs = rig.disk.blobs()
    with pytest.raises(NotFound):
        blobs.finish(DIGEST)
    blobs.write(DIGEST, 0, DATA)
    blobs.finish(DIGEST)
    blobs.finish(DIGEST)


def test_the_empty_blob(rig):
    """Zero bytes are a blob too."""
    digest = hashlib.sha256(b"").hexdigest()
    blobs = rig.disk.blobs()
    blobs.write(digest, 0, b"")
    blobs.finish(digest)
    assert (blobs.size(digest), blobs.read(digest)) == (0, b"")


def test_delete_forgets_whole_and_partial(rig):
    """A deleted blob is NotFound; deleting again is fine."""
    blobs = rig.disk.blobs()
    blobs.write(DIGEST, 0, DATA)
    blobs.delete(DIGEST)
    assert blobs.partial(DIGEST) == 0
    blobs.write(DIGEST, 0, DATA)
    blobs.finish(DIGEST)
    blobs.delete(DIGEST)
    blobs.delete(DIGEST)
    with pytest.raises(NotFound):
        blobs.read(DIGEST)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, DIGEST[:-1], DIGEST + "0"])
def test_names_are_digests(rig, name):
    """A name from a peer that is no SHA-256 in lower-case hex never reaches the file system."""
    with pytest.raises(InvalidAddress):
        rig.disk.blobs().write(name, 0, b"x")


def test_in_order_pieces_are_hashed_once(tmp_path, monkeypatch):
    """`finish` does not read back what it hashed on the way in."""
    blobs = FileBlobs(tmp_path)
    for offset in range(0, len(DATA), 1024):
        blobs.write(DIGEST, offset, DATA[offset : offset + 1024])
    monkeypatch.setattr(os, "pread", None)
    blobs.finish(DIGEST)
    assert blobs.read(DIGEST) == DATA


def test_a_byte_changed_before_finish_is_found_after_a_restart(tmp_path):
    """A partial that was damaged while the node was down does not become a blob."""
    FieldDisk(tmp_path).blobs().write(DIGEST, 0, DATA[:5000])
    piece = tmp_path / "blobs" / "partial" / DIGEST
    piece.write_bytes(b"?" + piece.read_bytes()[1:])
    blobs = FieldDisk(tmp_path).blobs()
    blobs.write(DIGEST, 5000, DATA[5000:])
    with pytest.raises(Corrupt):
        blobs.finish(DIGEST)


def _added(spans):
    for _, span in spans:
        span[0] += 1


def test_a_blob_becomes_another_in_its_place(rig):
    """Span by span behind its head; the first is gone."""
    blobs = rig.disk.blobs()
    blobs.write(DIGEST, 0, DATA)
    blobs.finish(DIGEST)
    wanted = bytearray(DATA)
    for at in range(64, len(DATA), 4096):
        wanted[at] += 1
    after = hashlib.sha256(wanted).hexdigest()
    rig.disk.evolve(DIGEST, after, 64, 4096, _added)
    assert (blobs.size(DIGEST), blobs.read(after)) == (None, bytes(wanted))


def test_what_becomes_nothing_is_gone(rig):
    """Work that fails half-way leaves neither blob."""
    blobs = rig.disk.blobs()
    blobs.write(DIGEST, 0, DATA)
    blobs.finish(DIGEST)

    def fails(spans):
        next(spans)[1][0] += 1
        raise Corrupt("half-way")

    with pytest.raises(Corrupt, match="half-way"):
        rig.disk.evolve(DIGEST, "0" * 64, 0, 4096, fails)
    assert (blobs.size(DIGEST), blobs.size("0" * 64), blobs.partial("0" * 64)) == (None, None, 0)


def test_a_blob_is_written_over_another(rig):
    """What came counts, not what lay there; a shorter one is no longer than it is; the other is gone at once."""
    blobs = rig.disk.blobs()
    blobs.write(DIGEST, 0, DATA)
    blobs.finish(DIGEST)
    short = DATA[: len(DATA) // 2][::-1]
    after = hashlib.sha256(short).hexdigest()
    rig.disk.displace(DIGEST, after)
    assert (blobs.size(DIGEST), blobs.partial(after)) == (None, 0)
    with pytest.raises(Conflict):
        blobs.write(after, 10, short[10:])
    blobs.write(after, 0, short[:100])
    assert blobs.partial(after) == 100
    blobs.write(after, 100, short[100:])
    blobs.finish(after)
    assert blobs.read(after) == short


def test_what_was_half_written_over_another_is_no_blob_after_a_restart(tmp_path):
    """Half of it is the other's: its digest tells."""
    disk = FieldDisk(tmp_path)
    disk.blobs().write(DIGEST, 0, DATA)
    disk.blobs().finish(DIGEST)
    after = hashlib.sha256(DATA[::-1]).hexdigest()
    disk.displace(DIGEST, after)
    disk.blobs().write(after, 0, DATA[::-1][:100])
    blobs = FieldDisk(tmp_path).blobs()
    with pytest.raises(Corrupt):
        blobs.finish(after)
    assert blobs.partial(after) == 0


@pytest.mark.parametrize("sound", [True, False])
def test_a_check_judges_in_place_of_the_digest(rig, sound):
    """It sees all the bytes; what it refuses is gone."""
    blobs, name = rig.disk.blobs(), "0" * 64

    def check(data):
        if bytes(data) != DATA or not sound:
            raise Corrupt("refused")

    blobs.write(name, 0, DATA, vouched=True)
    if sound:
        blobs.finish(name, check=check)
        assert blobs.read(name) == DATA
    else:
        with pytest.raises(Corrupt, match="refused"):
            blobs.finish(name, check=check)
        assert (blobs.partial(name), blobs.size(name)) == (0, None)
