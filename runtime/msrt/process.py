"""A process of msrt: its life (start, run, drain, stop), and the children that die with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from msrt import heap
from msrt.errors import LocalError, MsrtError
from msrt.statedir import StateDir, default_state, split_address
from msrt.supervisor import Supervisor

__all__ = ["StateDir", "child_argv", "default_state", "run", "spawn_child", "split_address", "stop_child"]

DRAIN_S: Final = 10.0
"""A process that was told to stop and has not by then is cancelled."""
SWITCH_INTERVAL_S: Final = 0.0005
"""CPython hands the GIL over every 5 ms by default: ten times too long for a loop with offload threads beside it."""


def run(main: Callable[[asyncio.Event], Awaitable[None]], *, drain_s: float = DRAIN_S) -> int:
    """Run a process's life and return its exit status.

    `main` gets an event that SIGINT and SIGTERM set: then it drains and returns within `drain_s` seconds, or is
    cancelled. An MsrtError becomes one sentence on stderr and its `exit_status`; anything else is a bug and keeps its
    traceback.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    heap.keep()
    try:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(_live(main, drain_s))
    except MsrtError as error:
        return _say(error)
    except BaseExceptionGroup as group:
        ours, rest = group.split(MsrtError)
        if rest is not None or ours is None:
            raise
        return _say(_first(ours))
    except KeyboardInterrupt:  # before the handlers stood
        return 130
    return 0


async def _live(main: Callable[[asyncio.Event], Awaitable[None]], drain_s: float) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    supervisor = Supervisor(os.environ)
    supervisor.watch(loop)
    work = asyncio.ensure_future(main(stop))
    told = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({work, told}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            await asyncio.wait({work}, timeout=drain_s)
        if work.done():
            work.result()
            return
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        raise DrainTimeout(f"did not stop within {drain_s:g} s and was cut off")
    finally:
        supervisor.close()
        told.cancel()


class DrainTimeout(LocalError):
    """The process was told to stop and did not in time."""

    code = "drain_timeout"


def child_argv(
    argv: Sequence[str],
    *,
    nice: int = 0,
    limits: Mapping[str, int] | None = None,
    own_group: bool = True,
) -> list[str]:
    """Wrap a command so that the kernel kills it when the thread that starts it dies.

    A small interpreter sets PR_SET_PDEATHSIG and then becomes the command: code that ran between fork and exec
    (`preexec_fn`) can deadlock on locks that our threads hold. `nice` is added to the priority; `limits` are rlimits
    by name (`{"RLIMIT_AS": 2**31}`); `own_group`: Ctrl-C in our terminal does not reach it, we stop it ourselves.
    Start it from a thread that lives as long as the process (the event loop's).
    """
    plan = {"parent": os.getpid(), "nice": nice, "limits": dict(limits or {}), "own": own_group, "argv": list(argv)}
    return [sys.executable, "-I", "-S", "-c", _WRAPPER, json.dumps(plan)]


async def spawn_child(
    argv: Sequence[str],
    *,
    nice: int = 0,
    limits: Mapping[str, int] | None = None,
    **options: Any,
) -> asyncio.subprocess.Process:
    """Start a child that cannot outlive us; `options` go to asyncio.create_subprocess_exec.

    A command that does not exist ends with status 127 and a line on its stderr.
    """
    return await asyncio.create_subprocess_exec(*child_argv(argv, nice=nice, limits=limits), **options)


async def stop_child(child: asyncio.subprocess.Process, grace_s: float = 3.0) -> int:
    """SIGTERM, then after `grace_s` seconds SIGKILL for the child and all it started; returns its status."""
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    try:
        async with asyncio.timeout(grace_s):
            await child.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)  # what the child started and left behind, if it leads a group
    return await child.wait()


_WRAPPER: Final = """
import json, os, signal, sys
plan = json.loads(sys.argv[1])
if plan["own"]:
    os.setsid()
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != plan["parent"]:
    os._exit(125)
if plan["limits"]:
    import resource
    for name, value in plan["limits"].items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = value if hard < 0 else min(value, hard)
        resource.setrlimit(number, (value, value))
if plan["nice"]:
    os.nice(plan["nice"])
try:
    os.execvp(plan["argv"][0], plan["argv"])
except OSError as error:
    sys.stderr.write(plan["argv"][0] + ": " + error.strerror + chr(10))
    sys.stderr.flush()
    os._exit(127)
"""
"""Runs in the child, after exec: alone in its process, so nothing here can meet a lock of ours. 1 is PR_SET_PDEATHSIG;
the parent is asked for afterwards, as it may have died in between."""


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415 - short commands and simulations do without

    return uvloop.new_event_loop()


def _say(error: MsrtError) -> int:
    sys.stderr.write(f"msrt: {error}\n")
    return error.exit_status


def _first(group: BaseExceptionGroup[MsrtError]) -> MsrtError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, MsrtError)
    return error
