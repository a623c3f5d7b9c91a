"""Artifacts on one node's disk."""

from __future__ import annotations

import asyncio

import pytest

from msrt.artifacts import ArtifactStore, BlobSink
from msrt.errors import (
    Corrupt,
    Disconnected,
    DiskFull,
    FrameTooLarge,
    NoRoom,
    NotFound,
    OutOfOrder,
    StreamCancelled,
    Unavailable,
)
from msrt.world.field import field_world
from msrt.world.memory import MemoryDisk
from tests.runtime.artifacts.rig import Parent, blob, digest_of, store


def test_what_is_put_is_read_back():
    """By its digest, twice the same, an empty one too."""

    async def main():
        artifacts = store()
        for data in (blob(1), b"", memoryview(blob(2))):
            digest = await artifacts.put_bytes(data)
            assert digest == digest_of(data)
            assert await artifacts.put_bytes(data) == digest
            assert await artifacts.read(digest) == data
        assert artifacts.held_bytes == 10_000

    asyncio.run(main())


def test_a_file_is_put_in_pieces(tmp_path):
    """On a real disk, from a real file, found again by the next process."""

    async def main():
        path = tmp_path / "model.onnx"
        path.write_bytes(blob(1, 3_000_001))
        artifacts = ArtifactStore(field_world(tmp_path / "state"))
        digest = await artifacts.put_file(path)
        again = ArtifactStore(field_world(tmp_path / "state"))
        assert again.size(digest) == 3_000_001
        assert await again.read(digest) == path.read_bytes()
        with pytest.raises(NotFound):
            await artifacts.put_file(tmp_path / "missing")

    asyncio.run(main())


def test_what_does_not_fit_is_not_begun():
    """A spare one goes for it if that is enough; else nothing is fetched, nothing goes, and the sentence has both
    numbers. Whoever does not know the size is told it before."""
    disk, big = MemoryDisk(), blob(1, 2 << 20)

    async def main():
        artifacts, parent = store(disk, 64 << 20), Parent(big)
        spare = await artifacts.put_bytes(blob(2, 1 << 20))
        disk.room = (16 << 20) + (1 << 20) - 1
        artifacts.expect({digest_of(big): len(big)})
        for size in (len(big), -1):
            with pytest.raises(NoRoom, match="has 2097152 bytes, 17825791 are free in memory") as caught:
                await artifacts.ensure(digest_of(big), parent, size)
            assert isinstance(caught.value, DiskFull)
        assert artifacts.has(spare)
        assert disk.blobs().partial(digest_of(big)) == 0
        assert parent.asked == []
        disk.room += 1
        await artifacts.ensure(digest_of(big), parent, len(big))
        assert artifacts.has(digest_of(big))
        assert not artifacts.has(spare)

    asyncio.run(main())


def test_a_flipped_byte_on_disk_is_found():
    """Reading says Corrupt once, and the damaged bytes are gone; nobody ever sees them."""
    disk = MemoryDisk()

    async def main():
        artifacts = store(disk)
        digest = await artifacts.put_bytes(blob(1))
        disk.blobs().flip(digest, 17)
        with pytest.raises(Corrupt):
            await artifacts.read(digest)
        assert artifacts.corrupt == 1
        with pytest.raises(NotFound):
            await artifacts.read(digest)
        assert disk.blobs().size(digest) is None

    asyncio.run(main())


def test_a_flipped_byte_is_fetched_again():
    """`get` heals: the caller has the right bytes and hears nothing of it."""
    disk = MemoryDisk()

    async def main():
        artifacts, parent = store(disk), Parent(blob(1))
        digest = await artifacts.put_bytes(blob(1))
        disk.blobs().flip(digest, 0)
        assert await artifacts.get(digest, parent) == blob(1)
        assert len(parent.asked) == 1
        assert await artifacts.get(digest, parent) == blob(1)
        assert len(parent.asked) == 1

    asyncio.run(main())


def test_putting_over_damage_heals():
    """A second push of the same model writes it anew where the disk lost it."""
    disk = MemoryDisk()

    async def main():
        artifacts = store(disk)
        digest = await artifacts.put_bytes(blob(1))
        disk.blobs().flip(digest, 0)
        await artifacts.put_bytes(blob(1))
        assert await artifacts.read(digest) == blob(1)

    asyncio.run(main())


def test_lending_trusts_the_disk_once_and_looks_again_when_in_doubt():
    """An artifact that is served is hashed the first time and on suspicion."""
    disk = MemoryDisk()

    async def main():
        artifacts = store(disk)
        digest = await artifacts.put_bytes(blob(1))
        async with artifacts.lend(digest) as lent:
            assert lent.size == 5000
            assert await lent.read(4990, 100) == blob(1)[4990:]
        disk.blobs().flip(digest, 0)
        async with artifacts.lend(digest):
            pass
        with pytest.raises(Corrupt):
            async with artifacts.lend(digest, suspect=True):
                pass
        assert not artifacts.has(digest)

    asyncio.run(main())


def test_one_fetch_serves_all_who_ask():
    """A hundred callers, one question to the parent."""

    async def main():
        artifacts, parent = store(), Parent(blob(1))
        digest = digest_of(blob(1))
        answers = await asyncio.gather(*(artifacts.get(digest, parent) for _ in range(100)))
        assert set(answers) == {blob(1)}
        assert len(parent.asked) == 1

    asyncio.run(main())


def test_a_caller_that_leaves_does_not_end_the_others_fetch():
    """The fetch ends when the last one leaves, and a later caller begins anew."""

    async def main():
        artifacts, parent = store(), Parent(blob(1))
        digest = digest_of(blob(1))
        parent.gate.clear()
        one, two = (asyncio.create_task(artifacts.ensure(digest, parent)) for _ in range(2))
        await asyncio.sleep(0)
        one.cancel()
        await asyncio.sleep(0)
        parent.gate.set()
        await two
        assert artifacts.has(digest)
        other = Parent(blob(2))
        other.gate.clear()
        alone = asyncio.create_task(artifacts.ensure(digest_of(blob(2)), other))
        await asyncio.sleep(0)
        alone.cancel()
        await asyncio.gather(alone, return_exceptions=True)
        other.gate.set()
        await artifacts.ensure(digest_of(blob(2)), other)
        assert len(other.asked) == 2

    asyncio.run(main())


def test_a_broken_fetch_resumes_where_it_was():
    """Even after a crash of the node: what had reached the disk is not sent again."""
    disk = MemoryDisk()

    async def main():
        parent = Parent(blob(1))
        digest = digest_of(blob(1))
        parent.fail_after = 3000
        with pytest.raises(Disconnected):
            await store(disk).ensure(digest, parent, 5000)
        artifacts = store(disk.crash())
        await artifacts.ensure(digest, parent, 5000)
        assert [offset for offset, _ in parent.asked] == [0, 3000]
        assert await artifacts.read(digest) == blob(1)

    asyncio.run(main())


def test_a_byte_flipped_on_the_way_is_fetched_again():
    """Once, and the parent is told to look at its own copy; twice is an error."""

    async def main():
        artifacts, parent = store(), Parent(blob(1))
        digest = digest_of(blob(1))
        parent.flips = 1
        await artifacts.ensure(digest, parent)
        assert parent.asked == [(0, False), (0, True)]
        assert artifacts.corrupt == 1
        bad = Parent(blob(2))
        bad.flips = 9
        with pytest.raises(Corrupt):
            await artifacts.ensure(digest_of(blob(2)), bad)
        assert len(bad.asked) == 2

    asyncio.run(main())


def test_a_partial_longer_than_the_artifact_is_thrown_away():
    """Whatever left it there, the fetch begins anew."""
    disk = MemoryDisk()

    async def main():
        parent, digest = Parent(blob(1)), digest_of(blob(1))
        disk.blobs().write(digest, 0, bytes(9000))
        await store(disk).ensure(digest, parent, 5000)
        assert parent.asked[0][0] == 0

    asyncio.run(main())


def test_a_parent_that_sends_nothing_is_told():
    """A fetch that returns without the bytes is an error, not a silent success."""

    async def main():
        async def nothing(_digest, _offset, _sink):
            return None

        with pytest.raises(Unavailable):
            await store().ensure(digest_of(b"x"), nothing)

    asyncio.run(main())


def test_a_sink_takes_only_what_comes_next_and_fits():
    """Out of order, too much, or after its fetch is over: refused."""

    async def main():
        sink = BlobSink(store(), digest_of(blob(1)), 0, 5000)
        await sink.write(0, bytearray(blob(1)[:1000]))
        with pytest.raises(OutOfOrder):
            await sink.write(2000, b"x")
        with pytest.raises(FrameTooLarge):
            await sink.write(1000, bytes(5000))
        await sink.close()
        with pytest.raises(StreamCancelled):
            await sink.write(1000, b"x")

    asyncio.run(main())


def test_the_least_recently_used_go():
    """Beyond the bound, in the order of use; reading counts as use."""

    async def main():
        artifacts = store(bound=16_000)
        one, two, three = [await artifacts.put_bytes(blob(n)) for n in range(3)]
        await artifacts.read(one)
        await artifacts.put_bytes(blob(9))
        assert (artifacts.has(one), artifacts.has(two), artifacts.has(three)) == (True, False, True)
        assert artifacts.held_bytes <= 16_000
        assert artifacts.room.evicted == 1

    asyncio.run(main())


def test_pinned_and_used_ones_stay_and_do_not_count():
    """The bound is of what is kept beyond them."""

    async def main():
        artifacts = store(bound=6_000)
        one, two = [await artifacts.put_bytes(blob(n)) for n in range(2)]
        assert not artifacts.has(one)
        artifacts.pin([two], "models")
        async with artifacts.lend(await artifacts.put_bytes(blob(2))) as lent:
            await artifacts.put_bytes(blob(3))
            assert artifacts.held_bytes == 15_000
        assert (artifacts.has(two), artifacts.has(lent.digest), artifacts.held_bytes) == (True, False, 10_000)
        artifacts.pin([], "models")
        await artifacts.ensure(digest_of(blob(4)), Parent(blob(4)))
        assert not artifacts.has(two)
        assert artifacts.held_bytes == 5_000

    asyncio.run(main())


def test_a_bound_of_nothing_keeps_none_beyond_those_in_use():
    """It is fetched, read and let go; what is pinned stays; an origin without a bound lets nothing go."""

    async def main():
        artifacts = store(bound=0)
        parent = Parent(blob(1))
        for _ in range(2):
            assert await artifacts.get(digest_of(blob(1)), parent, 5000) == blob(1)
            assert artifacts.held_bytes == 0
        assert len(parent.asked) == 2
        artifacts.pin([digest_of(blob(2))], "models")
        await artifacts.ensure(digest_of(blob(2)), Parent(blob(2)), 5000)
        await artifacts.get(digest_of(blob(1)), parent)
        assert artifacts.digests() == [digest_of(blob(2))]
        origin = store(bound=None)
        for number in range(20):
            await origin.put_bytes(blob(number))
        assert origin.held_bytes == 100_000

    asyncio.run(main())


def test_a_full_disk_lets_a_spare_one_go():
    """However much the bound would allow; a pinned one stays."""
    disk = MemoryDisk()

    async def main():
        artifacts = store(disk, bound=1 << 30)
        one, two = [await artifacts.put_bytes(blob(n)) for n in range(2)]
        artifacts.pin([one])
        disk.full = True
        with pytest.raises(DiskFull):
            await artifacts.put_bytes(blob(3))
        assert (artifacts.has(one), artifacts.has(two)) == (True, False)

    asyncio.run(main())


def test_a_full_disk_takes_nothing_and_loses_nothing():
    """With nothing to let go the error is DiskFull; later the same put works."""
    disk = MemoryDisk()

    async def main():
        artifacts = store(disk)
        disk.full = True
        with pytest.raises(DiskFull):
            await artifacts.put_bytes(blob(1))
        assert artifacts.held_bytes == 0
        disk.full = False
        await artifacts.put_bytes(blob(1))

    asyncio.run(main())


def test_an_artifact_that_vanished_is_not_found():
    """A file removed under our feet is a miss that `get` heals."""
    disk = MemoryDisk()

    async def main():
        artifacts = store(disk)
        digest = await artifacts.put_bytes(blob(1))
        disk.blobs().delete(digest)
        assert await artifacts.get(digest, Parent(blob(1))) == blob(1)

    asyncio.run(main())
