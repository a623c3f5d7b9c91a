"""The replay source: recorded readings in order, from where it left off."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import numpy as np
import pytest

from msrt import errors
from msrt.settings import SourceConfig
from msrt.world.field import field_world
from msrt_device.sources.source import open_source


def readings(tmp_path, path, skip=0, most=50, **config):
    """What the source yields, as lists."""

    async def main():
        settings = SourceConfig(name="belt", model="m", kind="replay", path=str(path), **config)
        found = []
        async with aclosing(open_source(field_world(tmp_path / "state"), settings, skip)) as source:
            async for reading in source:
                found.append(np.asarray(reading).tolist())
                if len(found) == most:
                    break
        return found

    return asyncio.run(main())


@pytest.fixture
def table(tmp_path):
    """Four readings of two numbers."""
    path = tmp_path / "table.npy"
    np.save(path, np.arange(8, dtype=np.float32).reshape(4, 2))
    return path


def test_an_array_is_read_row_by_row(tmp_path, table):
    """Once, and then the source ends."""
    assert readings(tmp_path, table) == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_text_is_read_line_by_line(tmp_path):
    """Numbers apart by commas or spaces, or JSON arrays; empty lines are nothing."""
    (tmp_path / "a.csv").write_text("1,2\n\n3 4\n")
    (tmp_path / "a.jsonl").write_text("[1, 2]\n[[3], [4]]\n")
    assert readings(tmp_path, tmp_path / "a.csv") == [[1, 2], [3, 4]]
    assert readings(tmp_path, tmp_path / "a.jsonl") == [[1, 2], [[3], [4]]]


def test_a_line_that_is_no_reading_is_skipped(tmp_path):
    """A header or a torn line does not keep what comes after it from being read."""
    (tmp_path / "a.csv").write_text("left,right\n1,2\n3,\n3,4\n5,oops\n")
    assert readings(tmp_path, tmp_path / "a.csv") == [[1, 2], [3], [3, 4]]
    assert readings(tmp_path, tmp_path / "a.csv", skip=1) == [[3], [3, 4]]


def test_a_directory_is_read_in_the_order_of_names(tmp_path):
    """One reading a file: .npy as it is, .bin as raw numbers of the configured type; other files are no readings."""
    place = tmp_path / "shots"
    place.mkdir()
    np.save(place / "b.npy", np.ones((2, 2), np.float32))
    (place / "a.bin").write_bytes(np.array([1, 2, 3], np.int16).tobytes())
    (place / "notes.txt").write_text("not a reading")
    assert readings(tmp_path, place, dtype="int16") == [[1, 2, 3], [[1, 1], [1, 1]]]


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"PK\x03\x04 no zip", b"text"])
def test_a_damaged_file_of_a_directory_is_skipped(tmp_path, damage):
    """Whatever is wrong with one file, the next one is read."""
    place = tmp_path / "shots"
    place.mkdir()
    (place / "a.npy").write_bytes(damage)
    np.save(place / "b.npy", np.ones(2, np.float32))
    assert readings(tmp_path, place) == [[1, 1]]


def test_it_goes_on_where_it_left_off(tmp_path, table):
    """Readings that became events in an earlier life are not read again."""
    assert readings(tmp_path, table, skip=3) == [[6, 7]]
    assert readings(tmp_path, table, skip=4) == []


def test_a_loop_begins_again_at_the_end(tmp_path, table):
    """Also when it left off in a later turn."""
    assert readings(tmp_path, table, most=6, loop=True)[4:] == [[0, 1], [2, 3]]
    assert readings(tmp_path, table, skip=9, most=2, loop=True) == [[2, 3], [4, 5]]


def test_a_loop_over_nothing_ends(tmp_path):
    """It would turn for ever without a reading."""
    (tmp_path / "empty").mkdir()
    assert readings(tmp_path, tmp_path / "empty", loop=True) == []


@pytest.mark.parametrize(("name", "fault"), [("gone.npy", "does not exist"), ("clip.mp4", "cannot read")])
def test_what_cannot_be_replayed_is_an_error_of_the_config(tmp_path, name, fault):
    """It says which source, and what it can read."""
    (tmp_path / "clip.mp4").write_bytes(b"film")
    with pytest.raises(errors.InvalidConfig, match=rf"belt.*{fault}"):
        readings(tmp_path, tmp_path / name)
