"""A node's forkserver: runners that begin with torch loaded. See `zygote`, the process that is forked.

It is started with the first runner and ends when none has lived for a while. Where it cannot fork, the host starts a
runner as a process of its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import structlog

from msrt.training.zygote import MESSAGE, Ended, Failed, Fork, Forked, Reap, Reaped, Word

__all__ = ["CannotFork", "ForkServer", "ForkedRunner"]

log = structlog.get_logger()
IDLE_S: Final = 60.0
WITHIN_S: Final = 60.0
"""Until the first fork: torch is loaded before it."""


class CannotFork(Exception):
    """There is no forkserver, or it may not fork now."""


class ForkedRunner:
    """What the host needs of a process: as asyncio's `Process` has it."""

    def __init__(
        self, pid: int, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader
    ) -> None:
        self.pid, self.stdin, self.stdout, self.stderr = pid, stdin, stdout, stderr
        self.returncode: int | None = None
        self._over = asyncio.Event()

    async def wait(self) -> int:
        """Until nothing is left of it."""
        await self._over.wait()
        assert self.returncode is not None
        return self.returncode

    def ended(self, status: int) -> None:
        """It did: no signal may be sent to its number any more."""
        self.returncode = status

    def reaped(self) -> None:
        self._over.set()


class ForkServer:
    """One for all jobs of a node. `idle_s` seconds after the last runner ended it ends too."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._process: Process | None = None
        self._link: socket.socket | None = None
        self._runners: dict[int, ForkedRunner] = {}
        self._asked: dict[int, asyncio.Future[Forked]] = {}
        self._early: dict[int, int] = {}
        """Statuses of runners that ended before who asked for them went on."""
        self._unwanted: set[int] = set()
        """Killed and not yet reaped."""
        self._number = 0
        self._turn = asyncio.Lock()
        self._resting: asyncio.TimerHandle | None = None

    @classmethod
    def lasting(cls, seconds: float) -> ForkServer | None:
        """As a node is set up; 0: it has none."""
        return cls(seconds) if seconds else None

    @property
    def pid(self) -> int | None:
        """Of the process, while it lives."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self, cwd: Path, environment: Mapping[str, str], limit: int) -> ForkedRunner:
        """A new runner; `limit` is that of its lines. Raises CannotFork."""
        if self._resting is not None:
            self._resting.cancel()
        (talk, their_talk), (mine, their_errors) = socket.socketpair(), os.pipe()
        stderr = asyncio.StreamReader(limit)
        heard, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stderr), os.fdopen(mine, "rb", 0)
        )
        stdout, stdin = await asyncio.open_connection(sock=talk, limit=limit)
        try:
            pid = await self._fork(cwd, environment, [their_talk.fileno(), their_errors])
        except BaseException:
            heard.close()
            stdin.close()
            self._rest()
            raise
        finally:
            their_talk.close()
            os.close(their_errors)
        runner = ForkedRunner(pid, stdin, stdout, stderr)
        self._runners[pid] = runner
        if pid in self._early:
            self._over(pid, self._early.pop(pid))
        return runner

    async def close(self) -> None:
        """End it, with every runner that lives."""
        process = self._process
        self._hang_up()
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()

    # --- the process ---------------------------------------------------------------------------------------------

    async def _fork(self, cwd: Path, environment: Mapping[str, str], files: list[int]) -> int:
        async with self._turn:
            if self.pid is None or self._link is None:
                await self._begin(environment)
        link = self._link
        if link is None:
            raise CannotFork("the forkserver ended at once")
        self._number += 1
        number = self._number
        answer: asyncio.Future[Forked] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            order = msgspec.json.encode(Fork(number, str(cwd), dict(environment)))
            socket.send_fds(link, [order], files)
            async with asyncio.timeout(WITHIN_S):
                return (await answer).pid
        except (OSError, TimeoutError) as error:
            raise CannotFork(str(error) or f"no runner after {WITHIN_S:.0f} s") from error
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled():  # it came while we were called away
                self._drop(answer.result().pid)
            raise
        finally:
            del self._asked[number]

    async def _begin(self, environment: Mapping[str, str]) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.setblocking(False)  # noqa: FBT003 - its one argument
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-u", "-P", "-m", "msrt.training.zygote",
                "--parent", str(os.getpid()), "--socket", str(theirs.fileno()),
                stdin=DEVNULL, stdout=DEVNULL, env=dict(environment), pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )  # fmt: skip
        self._link = mine
        asyncio.get_running_loop().add_reader(mine.fileno(), self._hear, mine)
        log.info("training.forkserver_started", pid=self._process.pid)

    def _hear(self, link: socket.socket) -> None:
        while True:
            try:
                data = link.recv(MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._hang_up()
                return
            self._heard(msgspec.json.decode(data, type=Word))

    def _heard(self, word: Word) -> None:
        match word:
            case Forked(number, pid):
                answer = self._asked.get(number)
                if answer is not None and not answer.done():
                    answer.set_result(word)
                else:  # nobody waits for it any more
                    self._drop(pid)
            case Failed(number, text):
                answer = self._asked.get(number)
                if answer is not None and not answer.done():
                    answer.set_exception(CannotFork(text))
            case Ended(pid, status):
                if pid in self._runners:
                    self._over(pid, status)
                elif pid in self._unwanted:
                    self._send(Reap(pid))
                else:
                    self._early[pid] = status
            case Reaped(pid):
                self._unwanted.discard(pid)
                runner = self._runners.pop(pid, None)
                if runner is not None:
                    runner.reaped()
                self._rest()

    def _drop(self, pid: int) -> None:
        """A runner that came after who asked for it had given up."""
        if self._early.pop(pid, None) is not None:  # by itself, even before that
            self._send(Reap(pid))
            return
        self._unwanted.add(pid)
        os.kill(pid, signal.SIGKILL)

    def _over(self, pid: int, status: int) -> None:
        self._runners[pid].ended(status)
        self._send(Reap(pid))

    def _send(self, order: Reap) -> None:
        if self._link is not None:
            try:
                self._link.send(msgspec.json.encode(order))
            except OSError:
                self._hang_up()

    def _rest(self) -> None:
        """Once nobody needs it, end it after a while."""
        if self._resting is not None:
            self._resting.cancel()
        if not self._runners and not self._asked and self._link is not None:
            self._resting = asyncio.get_running_loop().call_later(self._idle_s, self._hang_up)

    def _hang_up(self) -> None:
        """It is gone, or goes now that nobody talks to it; who lived by it dies with it."""
        link, self._link = self._link, None
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        if link is None:
            return
        asyncio.get_running_loop().remove_reader(link.fileno())
        link.close()
        log.info("training.forkserver_ended", runners=len(self._runners))
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(CannotFork("the forkserver died"))
        for runner in self._runners.values():
            runner.ended(-signal.SIGKILL if runner.returncode is None else runner.returncode)
            runner.reaped()
        self._runners.clear()
        self._early.clear()
        self._unwanted.clear()
