"""Updates of a trainer's process lie in files of their own until they are counted."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from msrt.artifacts import ArtifactStore
from msrt.errors import Corrupt, NotFound
from msrt.protocol.checksum import quick
from msrt.protocol.messages import UpdateMeta
from msrt.world.field import field_world
from msrt_device.updates import INLINE, Updates

DATA = bytes(range(256)) * (INLINE // 256 + 1)
META = UpdateMeta("job", 3, {"n": 1}, "edge/1", "fp32", 4)


class Rig:
    """One state directory, over restarts."""

    def __init__(self, folder):
        self.folder, self.kept = folder, None
        self.start()

    def start(self, *kept):
        self.world = field_world(self.folder / "state")
        self.updates = Updates(self.world, ArtifactStore(self.world), kept)

    def keep(self):
        path = self.folder / "state" / "made"
        path.write_bytes(DATA)
        self.kept = asyncio.run(self.updates.keep(META, path))
        assert not path.exists()
        self.made = path
        return self.folder / "state" / "updates" / self.kept.file

    def lent(self, *, quickly):
        async def work():
            async with self.updates.lent(self.kept, quickly=quickly) as (data, size, digest):
                return bytes(data), size, digest

        return asyncio.run(work())


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


@pytest.mark.parametrize("quickly", [True, False])
def test_a_file_is_lent_with_what_its_edge_takes(rig, quickly):
    """A checksum, or the digest; the same after a restart."""
    rig.keep()
    wanted = DATA, len(DATA), quick(DATA) if quickly else hashlib.sha256(DATA).hexdigest()
    assert rig.lent(quickly=quickly) == wanted
    rig.start(rig.kept)
    assert rig.lent(quickly=quickly) == wanted


def test_a_damaged_file_is_found_after_a_restart(rig):
    """As a power failure leaves it: it is trained again then."""
    path = rig.keep()
    path.write_bytes(b"x" + DATA[1:])
    rig.start(rig.kept)
    with pytest.raises(Corrupt, match="damaged"):
        rig.lent(quickly=True)
    path.unlink()
    with pytest.raises(NotFound, match="not here"):
        rig.lent(quickly=True)


def test_what_was_counted_is_gone(rig):
    """At once; and files that nothing knows at the next start. Its file goes where the next update is written over it,
    until the job is over."""
    path = rig.keep()
    inode = path.stat().st_ino
    asyncio.run(rig.updates.drop([rig.kept]))
    assert not path.exists()
    assert rig.made.stat().st_ino == inode
    asyncio.run(rig.updates.over("job"))
    assert not rig.made.exists()
    path = rig.keep()
    rig.start()
    assert not path.exists()


def test_what_is_being_made_is_not_replaced(rig):
    """A late update is dropped while the next one is written already."""
    path = rig.keep()
    rig.made.write_bytes(b"the next one")
    asyncio.run(rig.updates.drop([rig.kept]))
    assert (path.exists(), rig.made.read_bytes()) == (False, b"the next one")


def test_a_file_that_is_still_read_is_not_written_over(rig):
    """A round may be over while an update of it is on its way: what is sent stays what it was."""
    path = rig.keep()

    async def work():
        async with rig.updates.lent(rig.kept, quickly=True) as (data, _, _):
            await rig.updates.drop([rig.kept])
            rig.made.write_bytes(b"x")
            return bytes(data)

    assert asyncio.run(work()) == DATA
    assert not path.exists()
