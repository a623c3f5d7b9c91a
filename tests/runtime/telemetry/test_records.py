from __future__ import annotations

import asyncio
import json

import msgspec

from msrt.telemetry.records import WAITING, RecordFile


class Entry(msgspec.Struct):
    at: float
    text: str = ""


async def offload(work, *args):
    return work(*args)


def records(path, bound=1 << 20):
    return RecordFile(path / "d.jsonl", bound, offload=offload, to_wall=lambda at: at + 1000)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_entries_become_lines_with_the_calendars_time(tmp_path):
    """What was monotonic is seconds since 1970 in the file."""
    file = records(tmp_path)
    file(Entry(1.0, "a"))
    file(Entry(2.0, "b"))
    asyncio.run(file.flush())
    assert lines(file.path) == [{"at": 1001.0, "text": "a"}, {"at": 1002.0, "text": "b"}]
    assert (file.written, file.dropped) == (2, 0)


def test_two_files_stay_below_the_bound(tmp_path):
    """The older one goes; what is there is whole lines, the newest among them."""
    file = records(tmp_path, 10_000)
    for number in range(100):
        file(Entry(number, "x" * 300))
        asyncio.run(file.flush())
    both = [file.path, tmp_path / "d.1.jsonl"]
    assert sum(path.stat().st_size for path in both) <= 10_000
    assert [line["at"] for path in reversed(both) for line in lines(path)][-1] == 1099.0
    assert sorted(tmp_path.iterdir()) == sorted(both)


def test_a_line_that_a_crash_cut_off_does_not_spoil_the_next(tmp_path):
    """It stands alone, and a reader skips it."""
    file = records(tmp_path)
    file.path.write_text('{"at": 1')
    file(Entry(1.0))
    asyncio.run(file.flush())
    assert file.path.read_text().splitlines() == ['{"at": 1', '{"at":1001.0,"text":""}']


def test_what_does_not_fit_is_counted(tmp_path):
    """In the list, and on the disk."""
    file = records(tmp_path)
    for _ in range(WAITING + 5):
        file(Entry(0.0))
    assert file.dropped == 5
    file.path.mkdir()
    asyncio.run(file.flush())
    assert (file.written, file.dropped) == (0, WAITING + 5)


def test_the_end_of_its_task_is_not_the_end_of_what_waits(tmp_path):
    """A node that stops writes its last second down."""

    async def life():
        file = records(tmp_path)
        task = asyncio.ensure_future(file.run())
        await asyncio.sleep(0)
        file(Entry(3.0))
        task.cancel()
        await asyncio.wait([task])
        return file

    assert [line["at"] for line in lines(asyncio.run(life()).path)] == [1003.0]
