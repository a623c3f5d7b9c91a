"""The command source, with real programs: a line is a reading, and a program that dies is started again."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import aclosing

import pytest
from structlog.testing import capture_logs

from msrt import errors
from msrt.settings import SourceConfig
from msrt.world.field import field_world
from msrt_device.sources import command as room
from msrt_device.sources.source import open_source

pytestmark = pytest.mark.processes


def python(code):
    return (sys.executable, "-u", "-c", code)


def source_of(tmp_path, command, **config):
    settings = SourceConfig(name="belt", model="m", kind="command", command=command, **config)
    return aclosing(open_source(field_world(tmp_path), settings))


def readings(tmp_path, command, most=50, **config):
    """What the source yields, as lists."""

    async def main():
        found = []
        async with asyncio.timeout(30), source_of(tmp_path, command, **config) as source:
            async for reading in source:
                found.append(reading.tolist())
                if len(found) == most:
                    break
        return found

    return asyncio.run(main())


def test_each_line_is_a_reading(tmp_path):
    """JSON or plain numbers, in order; a program that ends well ends the source."""
    assert readings(tmp_path, python("print('[1, 2]'); print('3, 4'); print('5 6')")) == [[1, 2], [3, 4], [5, 6]]


def test_a_line_that_is_no_reading_is_left_out(tmp_path):
    """What a program says beside its readings does no harm, and is shown."""
    with capture_logs() as said:
        assert readings(tmp_path, python("print('warming up'); print(); print('nan 1'); print('[1]')"))[-1] == [1]
    assert [line["event"] for line in said] == ["source.bad_reading"] * 2


def test_a_program_that_dies_is_started_again_with_growing_pauses(tmp_path, monkeypatch):
    """Nothing it said before is lost; the pause doubles up to its bound, and begins anew after a good reading."""
    monkeypatch.setattr(room, "PAUSE_S", 0.01)
    monkeypatch.setattr(room, "PAUSE_MAX_S", 0.04)
    count = tmp_path / "count"
    count.write_text("")
    code = (
        f"p = {str(count)!r}; n = len(open(p).read()); open(p, 'a').write('x')\n"
        "if n in (0, 5): print(n)\n"
        "import os; os._exit(0 if n == 6 else 3)"
    )
    with capture_logs() as said:
        assert readings(tmp_path, python(code)) == [[0], [5]]
    died = [line for line in said if line["event"] == "source.command_died"]
    assert [line["again_in_s"] for line in died] == [0.01, 0.02, 0.04, 0.04, 0.04, 0.01]
    assert {line["status"] for line in died} == {3}


def test_a_program_killed_by_a_signal_is_started_again(tmp_path, monkeypatch):
    """However it died."""
    monkeypatch.setattr(room, "PAUSE_S", 0.01)
    code = "import os; print(1); os.kill(os.getpid(), 9)"
    assert readings(tmp_path, python(code), most=3) == [[1], [1], [1]]


def test_nothing_is_left_running_behind_a_closed_source(tmp_path):
    """The program is gone when the source is closed, not some time later."""

    async def main():
        code = "import os, time\nwhile True: print(os.getpid()); time.sleep(.01)"
        async with asyncio.timeout(30):
            async with source_of(tmp_path, python(code)) as source:
                pid = int((await anext(source))[0])
                os.kill(pid, 0)
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    asyncio.run(main())


def test_a_program_that_talks_faster_than_the_model_reads_has_to_wait(tmp_path):
    """The pipe is the queue: its bound holds the program, and no reading is dropped."""
    code = "for n in range(60000): print(n)"

    async def main():
        async with asyncio.timeout(60), source_of(tmp_path, python(code)) as source:
            return [int((await anext(source))[0]) for _ in range(60000)]

    assert asyncio.run(main()) == list(range(60000))


@pytest.mark.parametrize(
    ("command", "fault"), [((), "names no command"), (("no-such-program-anywhere",), "no program no-such-program")]
)
def test_a_command_that_cannot_be_run_is_an_error_of_the_config(tmp_path, command, fault):
    """It says which source and what is missing, instead of trying for ever."""
    with pytest.raises(errors.InvalidConfig, match=rf"belt.*{fault}"):
        readings(tmp_path, command)
