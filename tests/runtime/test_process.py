from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from msrt.process import child_argv, spawn_child, stop_child


def script(body, *args, **options):
    """A Python program in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(body), *args],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


LIFE = """
import asyncio, sys
from msrt import process
async def main(stop):
    print(type(asyncio.get_running_loop()).__module__, sys.getswitchinterval(), flush=True)
    await stop.wait()
    print("drained", flush=True)
sys.exit(process.run(main))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_flag_and_the_process_drains(number):
    """Start, run, drain, stop: on uvloop, with a short switch interval, and status 0."""
    with script(LIFE) as process:
        assert process.stdout.readline() == "uvloop 0.0005\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("drained\n", "", 0)


def test_an_error_is_one_sentence():
    """Ours becomes a line on stderr and status 1, also out of a task group."""
    body = """
    import asyncio, sys
    from msrt import errors, process
    async def fail():
        raise errors.PortInUse("127.0.0.1:80 is in use")
    async def main(stop):
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            group.create_task(stop.wait())
    sys.exit(process.run(main))
    """
    with script(body) as process:
        _, err = process.communicate(timeout=20)
    said = (
        "msrt: 127.0.0.1:80 is in use; name another with --listen, --mqtt, --http or --grpc (port 0 takes a free one)"
    )
    assert err == said + "\n"
    assert process.returncode == 1


def test_a_bug_keeps_its_traceback():
    """What is not ours is not dressed up."""
    with script("from msrt import process\nasync def main(stop): 1 / 0\nprocess.run(main)") as process:
        _, err = process.communicate(timeout=20)
    assert "Traceback" in err
    assert "ZeroDivisionError" in err
    assert process.returncode == 1


def test_a_drain_has_a_deadline():
    """Who does not stop in time is cut off, and says so."""
    body = """
    import asyncio, os, signal, sys
    from msrt import process
    async def main(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()
    sys.exit(process.run(main, drain_s=.1))
    """
    with script(body) as process:
        _, err = process.communicate(timeout=20)
    assert (err, process.returncode) == ("msrt: did not stop within 0.1 s and was cut off\n", 1)


def test_a_child_dies_with_its_parent():
    """Not even SIGKILL leaves a broker or a trainer behind."""
    body = """
    import asyncio, sys
    from msrt import process
    async def main(stop):
        code = "print('up', flush=True); import time; time.sleep(600)"
        child = await process.spawn_child([sys.executable, "-c", code], stdout=asyncio.subprocess.PIPE)
        await child.stdout.readline()
        print(child.pid, flush=True)
        await stop.wait()
    process.run(main)
    """
    with script(body) as parent:
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    until(lambda: not alive(pid))


def test_a_child_of_a_dead_parent_never_begins():
    """The parent may die before the wrapper has asked the kernel: then the command is not run at all."""
    argv = child_argv([sys.executable, "-c", "print('ran')"])
    # the shell is not the process that made the plan: as if that had died and another had taken the child
    done = subprocess.run(
        ["sh", "-c", '"$@"; exit $?', "sh", *argv], capture_output=True, text=True, check=False, timeout=20
    )
    assert (done.stdout, done.returncode) == ("", 125)


def test_a_child_is_the_command_itself():
    """The wrapper becomes the command: its status, its streams and its pid are the child's."""

    async def main():
        child = await spawn_child(
            [sys.executable, "-c", "import os, sys; print(os.getpid(), sys.argv[1:]); sys.exit(7)", "a b", ""],
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await child.communicate()
        assert out.decode() == f"{child.pid} ['a b', '']\n"
        assert child.returncode == 7

    asyncio.run(main())


def test_a_child_can_be_held_short():
    """Priority and limits hold in the child and leave the parent as it was; it leads a group of its own."""

    async def main():
        code = (
            "import os, resource as r; print(os.nice(0), r.getrlimit(r.RLIMIT_NOFILE)[0], os.getpgid(0) == os.getpid())"
        )
        child = await spawn_child(
            [sys.executable, "-c", code], nice=5, limits={"RLIMIT_NOFILE": 64}, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await child.communicate()
        assert out.decode() == f"{os.nice(0) + 5} 64 True\n"

    asyncio.run(main())


def test_a_missing_command_is_status_127():
    """As in a shell, with a line on stderr."""

    async def main():
        child = await spawn_child(["no-such-command"], stderr=asyncio.subprocess.PIPE)
        _, err = await child.communicate()
        assert (child.returncode, err) == (127, b"no-such-command: No such file or directory\n")

    asyncio.run(main())


def test_stopping_takes_the_stubborn_and_what_they_started():
    """SIGTERM first, SIGKILL after the grace; grandchildren go too."""
    code = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(below.pid, flush=True)
time.sleep(600)
"""

    async def main():
        child = await spawn_child([sys.executable, "-c", code], stdout=asyncio.subprocess.PIPE)
        below = int(await child.stdout.readline())
        assert await stop_child(child, grace_s=0.2) == -signal.SIGKILL
        return below

    below = asyncio.run(main())
    with contextlib.suppress(psutil.NoSuchProcess):
        until(lambda: not alive(below))


def test_stopping_the_dead_is_no_error():
    """A child that went by itself has its own status."""

    async def main():
        child = await spawn_child([sys.executable, "-c", "raise SystemExit(3)"])
        await child.wait()
        assert await stop_child(child) == 3

    asyncio.run(main())
