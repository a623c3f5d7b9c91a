"""Files of dropped artifacts that the next ones are written over."""

from __future__ import annotations

import asyncio

import pytest

from msrt.artifacts import ArtifactStore
from msrt.artifacts.spares import LARGE, Spares
from msrt.errors import Corrupt, DiskFull, NotFound
from msrt.world.field import field_world
from tests.runtime.artifacts.rig import Parent, blob, digest_of

SIZE = LARGE + 4096


def inode(artifacts, digest):
    return artifacts._disk.file(digest).stat().st_ino


def on_disk(path):
    return sorted(file.name for file in path.glob("blobs/??/*"))


def scenario(tmp_path, main):
    asyncio.run(main(ArtifactStore(field_world(tmp_path))))


@pytest.mark.parametrize("how", ["put", "fetched"])
def test_the_next_one_lies_where_a_dropped_one_was(tmp_path, how):
    """The same file under another name, with its own bytes, whoever asks; the dropped one is not here."""

    async def main(artifacts):
        first, second = blob(1, SIZE), blob(2, SIZE)
        old = await artifacts.put_bytes(first)
        where = inode(artifacts, old)
        await artifacts.drop(old, reuse=True)
        assert not artifacts.has(old)
        with pytest.raises(NotFound):
            await artifacts.read(old)
        new = digest_of(second)
        if how == "put":
            await artifacts.put_bytes(second)
        else:
            await artifacts.ensure(new, Parent(second), reuse=True)
        assert inode(artifacts, new) == where
        assert await artifacts.read(new) == second
        assert on_disk(tmp_path) == [new]

    scenario(tmp_path, main)


def test_one_of_another_size_is_left_alone(tmp_path):
    """A size that is known must fit; where it is not known the file becomes as short as what came."""

    async def main(artifacts):
        old = await artifacts.put_bytes(blob(1, SIZE))
        await artifacts.drop(old, reuse=True)
        small = blob(2, SIZE - 1)
        await artifacts.put_bytes(small)
        assert on_disk(tmp_path) == sorted([old, digest_of(small)])
        less = blob(3, 5000)
        await artifacts.ensure(digest_of(less), Parent(less), reuse=True)
        assert await artifacts.read(digest_of(less)) == less
        assert old not in on_disk(tmp_path)

    scenario(tmp_path, main)


def test_one_that_somebody_reads_is_not_written_over(tmp_path):
    """A slice that is on its way to a child keeps its bytes, however long it takes."""

    async def main(artifacts):
        first = blob(1, SIZE)
        old = await artifacts.put_bytes(first)
        async with artifacts.lend(old) as lent:
            piece = await lent.read(100, 1000)
        await artifacts.drop(old, reuse=True)
        assert old not in on_disk(tmp_path)
        await artifacts.put_bytes(blob(2, SIZE))
        assert piece == first[100:1100]
        del lent

    scenario(tmp_path, main)


def test_one_that_was_damaged_is_read_anew_beside_who_still_reads_the_damage(tmp_path):
    """A child is in the middle of a file whose bytes have changed; the next one gets those that were fetched again."""

    async def main(artifacts):
        data = blob(1, SIZE)
        digest = await artifacts.put_bytes(data)
        async with artifacts.lend(digest) as first:
            assert await first.read(0, 10) == data[:10]
            with artifacts._disk.file(digest).open("r+b") as file:
                file.write(b"damaged!!!")
            with pytest.raises(Corrupt):
                async with artifacts.lend(digest, suspect=True):
                    pass
            await artifacts.ensure(digest, Parent(data))
            async with artifacts.lend(digest) as second:
                assert await second.read(0, 10) == data[:10]
            assert await first.read(0, 10) == b"damaged!!!"

    scenario(tmp_path, main)


def test_one_that_comes_back_is_no_spare(tmp_path):
    """Dropped, put again, and safe from who looks for a file to write over."""

    async def main(artifacts):
        first, second = blob(1, SIZE), blob(2, SIZE)
        old = await artifacts.put_bytes(first)
        await artifacts.drop(old, reuse=True)
        await artifacts.put_bytes(first)
        new = await artifacts.put_bytes(second)
        assert await artifacts.read(old) == first
        assert await artifacts.read(new) == second

    scenario(tmp_path, main)


def test_release_leaves_none(tmp_path):
    """And so does a disk that is full: the artifact that comes has the room."""

    async def main(artifacts):
        for number in range(5):
            await artifacts.drop(await artifacts.put_bytes(blob(number, SIZE + number)), reuse=True)
        assert len(on_disk(tmp_path)) == 3
        assert await artifacts.release()
        assert not on_disk(tmp_path)
        assert not await artifacts.release()
        await artifacts.drop(await artifacts.put_bytes(blob(9, SIZE)), reuse=True)
        write, tries = artifacts.blobs.write, []

        def full_once(*args, **named):
            tries.append(args)
            if len(tries) == 1:
                raise DiskFull("the disk took no more")
            write(*args, **named)

        artifacts.blobs.write = full_once
        last = await artifacts.put_bytes(blob(10, 2 * SIZE))
        assert on_disk(tmp_path) == [last]

    scenario(tmp_path, main)


def test_what_a_death_left_of_one_is_found_again(tmp_path):
    """A spare is an artifact like any other to the next process, which may drop it again."""

    async def main(artifacts):
        old = await artifacts.put_bytes(blob(1, SIZE))
        await artifacts.drop(old, reuse=True)
        after = ArtifactStore(field_world(tmp_path))
        assert await after.read(old) == blob(1, SIZE)
        await after.drop(old)
        assert not on_disk(tmp_path)

    scenario(tmp_path, main)


def test_the_last_of_its_size_goes_first():
    """Its pages are the likeliest to be in memory; too small a one is not worth it; the oldest makes way."""
    spares = Spares()
    assert spares.add("small", LARGE - 1) == "small"
    assert [spares.add(name, SIZE) for name in "abc"] == ["", "", ""]
    assert spares.add("d", SIZE) == "a"
    assert spares.take(SIZE + 1) == ""
    assert spares.take(SIZE) == "d"
    assert spares.take(-1) == "c"
    spares.forget("b")
    assert spares.clear() == []
