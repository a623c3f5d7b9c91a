"""A process with torch loaded that turns into runners: `python -P -m msrt.training.zygote --parent PID --socket FD`.

Loading torch costs more than a CPU second, a fork of a process that has it a hundredth. A fork is safe only where no
other thread is: so it is refused when there is one, and nothing is computed here. What is forked is a runner like any
other (its own session and group, limits, priority, environment; it dies with this process, and this one with the node)
that shares the pages of torch with its siblings until it writes to them.

On the socket are JSON messages: `Fork` with two descriptors (the runner's pipes, its standard error) and `Reap` from
the node, `Forked`, `Failed`, `Ended` and `Reaped` from here. A runner that ended stays a zombie until it is reaped, so
that no signal of the node meets another process with its number.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import socket
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from msrt.errors import words_of
from msrt.training import runner
from msrt.training.limits import die_with

__all__ = ["MESSAGE", "Ended", "Failed", "Fork", "Forked", "Reap", "Reaped", "Word"]

MESSAGE: Final = 64 << 10
"""Bytes of one message at most."""


class _Tagged(msgspec.Struct, frozen=True, tag_field="t"): ...


class Fork(_Tagged, frozen=True):
    """Become a runner in this directory, with this environment and no other."""

    number: int
    cwd: str
    environment: dict[str, str]


class Reap(_Tagged, frozen=True):
    """The node knows that it ended: its number may be used again."""

    pid: int


class Forked(_Tagged, frozen=True):
    """Done."""

    number: int
    pid: int


class Failed(_Tagged, frozen=True):
    """Not done."""

    number: int
    text: str


class Ended(_Tagged, frozen=True):
    """A runner's end: its status, or minus the signal."""

    pid: int
    status: int


class Reaped(_Tagged, frozen=True):
    """Nothing is left of it."""

    pid: int


Order: TypeAlias = Fork | Reap
Word: TypeAlias = Forked | Failed | Ended | Reaped


class Zygote:
    """Waits for orders until the node hangs up."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._living: set[int] = set()
        self._bell, self._ring = os.pipe()
        for end in (self._bell, self._ring):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._ring)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # it only rings

    def run(self) -> bool:
        """In a runner that was forked: true. Here: false, once the node is gone."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._link, selectors.EVENT_READ)
            selector.register(self._bell, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._bell in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._bell, 4096)
                    self._look()
                if self._link in ready:
                    data, files, _, _ = socket.recv_fds(self._link, MESSAGE, 2)
                    if not data:
                        return False
                    if self._order(msgspec.json.decode(data, type=Order), files):
                        return True

    def _order(self, order: Order, files: list[int]) -> bool:
        if isinstance(order, Reap):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(order.pid, 0)
            self._say(Reaped(order.pid))
            return False
        try:
            threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - a path for each thread is no use
            if threads > 1:
                raise RuntimeError(f"{threads} threads run here")  # noqa: TRY301 - told below, like what fork raises
            here = os.getpid()
            child = os.fork()
        except (OSError, RuntimeError) as error:
            self._say(Failed(order.number, words_of(error)))
        else:
            if not child:
                self._become(order, here, files)
                return True
            self._living.add(child)
            self._say(Forked(order.number, child))
        for file in files:
            os.close(file)
        return False

    def _become(self, order: Fork, parent: int, files: list[int]) -> None:
        """In the new process: nothing of this one is left but what was loaded."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        die_with(parent)
        talk, errors = files
        for source, target in ((talk, 0), (talk, 1), (errors, 2)):
            os.dup2(source, target)
        self._link.close()
        for file in {talk, errors, self._bell, self._ring}:
            os.close(file)
        os.chdir(order.cwd)
        os.environ.clear()
        os.environ.update(order.environment)

    def _look(self) -> None:
        """Who ended?"""
        for pid in list(self._living):
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                self._living.discard(pid)
                killed = ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
                self._say(Ended(pid, -ended.si_status if killed else ended.si_status))

    def _say(self, word: Word) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._link.send(msgspec.json.encode(word))


def _load() -> None:
    """What a runner would load itself, and what all may share of it."""
    with contextlib.suppress(ModuleNotFoundError):  # a runner says what is missing
        import msrt.training.local  # noqa: F401, PLC0415 - brings torch
    gc.collect()
    gc.freeze()


def _status(work: Callable[[], None]) -> int:
    """How the process ends; at once, as multiprocessing's do: taking an interpreter with torch apart costs a second."""
    status = 0
    try:
        work()
    except SystemExit as gone:
        status = gone.code if isinstance(gone.code, int) else int(gone.code is not None)
        if isinstance(gone.code, str):
            sys.stderr.write(f"{gone.code}\n")
    except BaseException:  # noqa: BLE001 - nobody is above
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return status & 0xFF


def main() -> None:
    """Load, wait; a runner goes on from here as one that was started alone."""
    parser = ArgumentParser(prog="msrt.training.zygote", description=__doc__)
    parser.add_argument("--parent", type=int, required=True, help="process id of the node")
    parser.add_argument("--socket", type=int, required=True, help="descriptor of the socket to it")
    given = parser.parse_args()
    die_with(given.parent)
    os.nice(runner.NICE)
    link = socket.socket(fileno=given.socket)
    link.set_inheritable(False)
    _load()
    if Zygote(link).run():
        import numpy as np  # noqa: PLC0415 - loaded already

        np.random.seed()  # noqa: NPY002 - what user code draws unseeded differs from its siblings
        sys.argv = [str(Path(runner.__file__)), "--parent", str(os.getppid())]
        os._exit(_status(lambda: runner.serve(*runner.pipes())))


if __name__ == "__main__":
    main()
