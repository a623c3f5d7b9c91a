"""An image onto a medium: whole or not bootable, and checked byte by byte."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt_device.flash.writing.blockmap import BLOCK, BlockMap, Extent
from msrt_device.flash.writing.errors import BadImage, MediumRefused, NotVerified
from msrt_device.flash.writing.grid import CHUNK, HEAD, cut
from msrt_device.flash.writing.image import Image
from msrt_device.flash.writing.journal import Forgetful, Journal
from msrt_device.flash.writing.machine import Machine
from msrt_device.flash.writing.medium import OpenMedium, describe
from msrt_device.flash.writing.sources import Frames
from msrt_device.flash.writing.verify import verify
from msrt_device.flash.writing.writer import write_image
from tests.device.flash.media import Medium, PowerCut, boots, noise, packed

SIZE = HEAD + 700_000
DATA = noise(SIZE, holes=[(4096, 40_960), (HEAD + 8192, HEAD + 300_000)])
kinds = pytest.mark.parametrize("kind", ["", ".zst", ".xz"])


def quiet(_stage, _done, _total):
    """Nobody watches."""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The same image in each packing."""
    folder = tmp_path_factory.mktemp("images")
    return {kind: packed(folder, DATA, kind) for kind in ("", ".zst", ".xz")}


@kinds
@pytest.mark.parametrize("zeroes", [False, True])
def test_the_medium_holds_the_image_whatever_it_held_before(images, kind, zeroes):
    """Zeros too, whether the medium can zero itself or they are written."""
    medium = Medium(SIZE + 4096, zeroes=zeroes)
    written = write_image(Image.open(images[kind]), medium, quiet, Forgetful())
    assert bytes(medium.held[:SIZE]) == DATA
    assert written.size == SIZE
    verify(written.ranges, medium, quiet)


@settings(max_examples=30)
@given(cut=st.integers(0, 1200), seed=st.integers(0, 1 << 30), spare=st.sampled_from([0, 65_536]), data=st.data())
def test_whenever_the_power_goes_half_an_image_does_not_boot(images, cut, seed, spare, data):
    """Nothing of what was there before boots either, nor a backup of its partition table: all or nothing."""
    zeroes = data.draw(st.booleans())
    old = noise(SIZE + spare, seed=1)
    medium = Medium(SIZE + spare, content=old, cut_after=cut, zeroes=zeroes, seed=seed)
    try:
        write_image(Image.open(images[""]), medium, quiet, Forgetful())
    except PowerCut:
        body = bytes(medium.held[HEAD:SIZE]) == DATA[HEAD:]
        begun = medium.syncs > 0  # before the first sync, the old system may still be there
        assert not begun or not boots(medium) or body
        assert not any(medium.held[:4096]) or bytes(medium.held[:SIZE]) == DATA or not begun
    else:
        assert bytes(medium.held[:SIZE]) == DATA


@pytest.fixture(scope="module")
def written(images):
    """The image on a medium, and its ranges."""
    medium = Medium(SIZE, zeroes=True)
    return medium, write_image(Image.open(images[""]), medium, quiet, Forgetful()).ranges


@settings(max_examples=50)
@given(at=st.integers(0, SIZE - 1), bit=st.integers(0, 7))
def test_verification_finds_a_flipped_bit_anywhere(written, at, bit):
    """In data and in holes; the error names the range."""
    medium, ranges = written
    medium.held[at] ^= 1 << bit
    try:
        with pytest.raises(NotVerified) as raised:
            verify(ranges, medium, quiet)
    finally:
        medium.held[at] ^= 1 << bit
    assert raised.value.offset <= at < raised.value.offset + raised.value.length


@pytest.mark.parametrize("kind", [".zst", ".xz"])
@settings(max_examples=8)
@given(at=st.integers(0, 1 << 30), how=st.sampled_from(["flip", "cut"]))
def test_a_damaged_image_never_becomes_bootable(images, tmp_path_factory, kind, at, how):
    """Cut off or with a flipped byte, it is refused by a sentence, or the medium stays without a beginning."""
    whole = bytearray(images[kind].read_bytes())
    at %= len(whole)
    if how == "cut":
        del whole[at:]
    else:
        whole[at] ^= 0x40
    broken = tmp_path_factory.mktemp("broken") / f"base.img{kind}"
    broken.write_bytes(whole)
    medium = Medium(SIZE + 4096)
    try:
        write_image(Image.open(broken), medium, quiet, Forgetful())
    except (BadImage, MediumRefused):
        assert not medium.syncs or not any(medium.held[:HEAD])
    else:
        assert how == "flip"


def test_an_image_that_turns_out_too_large_leaves_no_beginning(images):
    """An xz file does not say its size before its end."""
    medium = Medium(HEAD + 65_536)
    with pytest.raises(MediumRefused, match="more than") as raised:
        write_image(Image.open(images[".xz"]), medium, quiet, Forgetful())
    assert raised.value.reason == "too_small"
    assert not any(medium.held[:HEAD])


def test_a_block_map_leaves_alone_what_it_does_not_name(images, tmp_path):
    """And its digests are held against the image."""
    (tmp_path / "base.img").write_bytes(DATA)
    bmap = tmp_path / "base.img.bmap"
    last, end = 65_536, (SIZE - 8192) // BLOCK * BLOCK
    bmap.write_text(BlockMap(SIZE, (Extent(0, last), Extent(HEAD, 4096), Extent(end, SIZE - end))).render())
    medium = Medium(SIZE + 2 * HEAD)
    written = write_image(Image.open(tmp_path / "base.img"), medium, quiet, Forgetful())
    assert medium.held[HEAD + 4096 : HEAD + 300_000] == bytes([0xA5]) * (300_000 - 4096)
    assert bytes(medium.held[:last]) == DATA[:last]
    verify(written.ranges, medium, quiet)
    assert written.wrote <= last + 4096 + SIZE - end


def test_an_image_that_is_not_what_its_block_map_says_is_refused(tmp_path):
    """Before its beginning is written."""
    (tmp_path / "base.img").write_bytes(DATA)
    (tmp_path / "base.img.bmap").write_text(BlockMap.of_file(tmp_path / "base.img").render())
    with (tmp_path / "base.img").open("r+b") as file:
        file.seek(HEAD + 400_000)
        file.write(b"flipped")
    medium = Medium(SIZE)
    with pytest.raises(BadImage, match="block map"):
        write_image(Image.open(tmp_path / "base.img"), medium, quiet, Forgetful())
    assert not any(medium.held[:HEAD])


@kinds
def test_a_regular_file_is_always_a_medium(images, tmp_path, kind):
    """Made or grown, sparse where the image has zeros, private, and its rest is zeros."""
    target = tmp_path / "out.img"
    if kind == ".zst":
        target.write_bytes(noise(SIZE + 100_000, seed=9))
    with OpenMedium.open(describe(target, Machine())) as sink:
        sink.blank()
        written = write_image(Image.open(images[kind]), sink, quiet, Forgetful())
        sink.grow(written.size)
        verify(written.ranges, sink, quiet)
    assert target.read_bytes()[:SIZE] == DATA
    assert not any(target.read_bytes()[SIZE:])
    assert written.wrote < SIZE - 190_000  # what lies in the first MiB is written with it
    assert kind == ".zst" or target.stat().st_mode & 0o077 == 0


def framed(path, data, bad=None):
    """Packed as `msrt device image` does, a frame for each piece of the grid; `bad`: one that is not whole."""
    pack = zstandard.ZstdCompressor(write_checksum=True)
    frames = [bytearray(pack.compress(data[at : at + length])) for at, length in cut(0, len(data))]
    if bad is not None:
        frames[bad][-1] ^= 0x40  # of its checksum
    path.write_bytes(b"".join(frames))
    return path


@pytest.fixture(scope="module")
def long():
    """Three frames after the head, the last of them short."""
    return noise(HEAD + 2 * CHUNK + 5000, seed=5, holes=[(HEAD + CHUNK, HEAD + CHUNK + 300_000)])


def test_frames_on_the_grid_are_unpacked_side_by_side(tmp_path, long):
    """The same bytes and ranges as of the raw image, whichever thread is the first."""
    image = Image.open(framed(tmp_path / "base.img.zst", long))
    assert isinstance(image.source(), Frames)
    assert image.size == len(long)
    (tmp_path / "base.img").write_bytes(long)
    mediums = [Medium(len(long), zeroes=True) for _ in range(2)]
    both = [
        write_image(one, medium, quiet, Forgetful())
        for one, medium in zip((image, Image.open(tmp_path / "base.img")), mediums, strict=True)
    ]
    assert bytes(mediums[0].held) == bytes(mediums[1].held) == long
    assert both[0].ranges == both[1].ranges


def test_frames_that_no_extent_names_are_not_even_read(tmp_path, long):
    """And several extents of one frame are taken from it."""
    packed_, last = framed(tmp_path / "base.img.zst", long, bad=1), HEAD + CHUNK
    extents = [(0, HEAD), (last, 4096), (last + 400 * BLOCK, 4096), (last + CHUNK, 5000)]
    found = [Extent(at, length, hashlib.sha256(long[at : at + length]).hexdigest()) for at, length in extents]
    (tmp_path / "base.img.zst.bmap").write_text(BlockMap(len(long), tuple(found)).render())
    medium = Medium(len(long))
    write_image(Image.open(packed_), medium, quiet, Forgetful())
    assert all(bytes(medium.held[at : at + length]) == long[at : at + length] for at, length in extents)
    assert medium.held[HEAD:last] == bytes([0xA5]) * CHUNK


def test_a_frame_that_is_damaged_is_refused(tmp_path, long):
    """By its checksum, and before the beginning is written."""
    medium = Medium(len(long))
    with pytest.raises(BadImage, match="damaged"):
        write_image(Image.open(framed(tmp_path / "base.img.zst", long, bad=2)), medium, quiet, Forgetful())
    assert not any(medium.held[:HEAD])


def test_where_direct_writes_are_refused_the_cache_is_used(tmp_path, long, monkeypatch):
    """Some file systems take O_DIRECT when a file is opened, and say EINVAL later."""
    real, direct = os.pwrite, []

    def pwrite(fd, data, offset):
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            direct.append(offset)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    target = tmp_path / "out.img"
    with OpenMedium.open(describe(target, Machine())) as sink:
        sink.blank()
        written = write_image(Image.open(framed(tmp_path / "base.img.zst", long)), sink, quiet, Forgetful())
        verify(written.ranges, sink, quiet)
    assert target.read_bytes() == long
    assert len(direct) <= 1


def test_a_second_try_goes_on_where_the_first_was_cut(images, tmp_path, monkeypatch):
    """What was committed is not written again, and all of it is verified."""
    monkeypatch.setattr("msrt_device.flash.writing.writer.COMMIT", 1)
    data = noise(HEAD + (16 << 20), seed=3)
    image, target = tmp_path / "base.img", tmp_path / "out.img"
    image.write_bytes(data)

    def once(stop_at):
        def watch(_stage, done, _total):
            if stop_at and done > stop_at:
                raise PowerCut

        with OpenMedium.open(describe(target, Machine())) as sink:
            journal = Journal.of(tmp_path / "journal", image, sink.medium)
            if not journal.believe(sink):
                sink.blank()
            written = write_image(Image.open(image), sink, watch, journal)
            verify(written.ranges, sink, quiet)
            journal.forget()
            return written.wrote

    with pytest.raises(PowerCut):
        once(10 << 20)
    assert not any(target.read_bytes()[:HEAD])
    assert 0 < once(0) < len(data) - (4 << 20)
    assert target.read_bytes() == data
    assert not list((tmp_path / "journal").iterdir())


def test_another_medium_is_not_taken_for_the_one_that_was_begun(images, tmp_path, monkeypatch):
    """The first ranges are read back before any is believed."""
    monkeypatch.setattr("msrt_device.flash.writing.writer.COMMIT", 1)
    data = noise(HEAD + (12 << 20), seed=4)
    image, target = tmp_path / "base.img", tmp_path / "out.img"
    image.write_bytes(data)
    with OpenMedium.open(describe(target, Machine())) as sink:
        journal = Journal.of(tmp_path / "journal", image, sink.medium)
        sink.blank()
        write_image(Image.open(image), sink, quiet, journal)
    os.truncate(target, 0)
    with OpenMedium.open(describe(target, Machine())) as sink:
        again = Journal.of(tmp_path / "journal", image, sink.medium)
        assert not again.fresh
        assert not again.believe(sink)
        assert again.fresh
