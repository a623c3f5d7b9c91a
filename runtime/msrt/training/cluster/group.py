"""The runner's hold on its group: starts the elastic agent, hands rounds to rank 0, and goes on with a restarted one.

Rank 0 connects to a socket in the group's directory whenever the agent has (re)started the workers, and is told the
round under way again; the workers find its last checkpoint. Blocking: it runs in the runner, which does one thing at a
time and is killed, with all of its process group, at the round's deadline.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
from io import BufferedRWPair
from pathlib import Path
from typing import Final

import msgspec

from msrt.errors import InvalidJob, JobFailed
from msrt.training import pipe
from msrt.training.cluster.door import near
from msrt.training.cluster.messages import DoRound, Fault, RoundDone, encode

__all__ = ["FAULT", "GIVEN_UP", "SOCKET", "Group"]

SOCKET: Final = "rank0.sock"
FAULT: Final = "fault.json"
"""Written by the first worker whose user code raised."""
GIVEN_UP: Final = "given-up.txt"
"""Written by an agent whose workers died too often."""
POLL_S: Final = 0.2
STOP_WITHIN: Final = 5.0


class Group:
    """One group of workers; `directory` is its own."""

    def __init__(self, sources: Path, directory: Path) -> None:
        self.sources, self.directory = sources, directory
        directory.mkdir(parents=True, exist_ok=True)
        self.connections = 0
        """How often a rank 0 came: once, and once more after every restart."""
        self._agent: subprocess.Popen[bytes] | None = None
        self._link: BufferedRWPair | None = None
        self._listener = self._listen()

    def start(self) -> None:
        """Have the agent load torch while the caller does something else."""
        if self._agent is None or self._agent.poll() is not None:
            self._start()

    def ask(self, command: DoRound) -> RoundDone:
        """Have a round trained, over as many restarts as the agent allows. Raises JobFailed, InvalidJob."""
        self.start()
        while True:
            body = None
            try:
                link = self._link or self._accept()
                link.write(encode(command))
                link.flush()
                body = pipe.read(link)
            except OSError as error:
                print(f"cluster: rank 0 is gone: {error}", file=sys.stderr)  # noqa: T201 - stderr is the job's log
            if body is not None:
                return msgspec.json.decode(body, type=RoundDone)
            self._hang_up()
            self._raise_fault()

    def close(self) -> None:
        """The workers see the end of the socket and leave; the agent follows them."""
        self._hang_up()
        self._listener.close()
        if self._agent is not None:
            try:
                self._agent.wait(STOP_WITHIN)
            except subprocess.TimeoutExpired:
                self._end()
        shutil.rmtree(self.directory / "tmp", ignore_errors=True)
        shutil.rmtree(self.directory / "logs", ignore_errors=True)

    def _hang_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            with contextlib.suppress(OSError):  # what was not sent is lost with whom it was for
                link.close()

    def _end(self) -> None:
        """Have the agent end its workers; killed, it takes its server of forks with it, and that the workers."""
        assert self._agent is not None
        self._agent.terminate()
        try:
            self._agent.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self._agent.kill()
            self._agent.wait()

    def _raise_fault(self) -> None:
        path = self.directory / FAULT
        if not path.is_file():
            return
        fault = msgspec.json.decode(path.read_bytes(), type=Fault)
        self._end()
        text = f"rank {fault.rank}: {fault.text}"
        raise InvalidJob(text) if fault.refused else JobFailed(text, hint=fault.where)

    def _listen(self) -> socket.socket:
        (self.directory / SOCKET).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            listener.bind(near(descriptor, SOCKET))
        finally:
            os.close(descriptor)
        listener.listen(1)
        return listener

    def _start(self) -> None:
        self._hang_up()
        self._listener.close()
        self._listener = self._listen()  # whoever still waits at the old one is of another life
        for name in ("tmp", "logs"):
            shutil.rmtree(self.directory / name, ignore_errors=True)
            (self.directory / name).mkdir()
        for name in (FAULT, GIVEN_UP):
            (self.directory / name).unlink(missing_ok=True)
        self._agent = self._launch()

    def _launch(self) -> subprocess.Popen[bytes]:
        """The agent. It stays in the runner's process group: pause, resume and the kill at a deadline are for all."""
        arguments = ["--parent", str(os.getpid()), "--sources", str(self.sources), "--work", str(self.directory)]
        return subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-u", "-P", "-m", "msrt.training.cluster.agent", *arguments],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": str(self.directory / "tmp")},
        )

    def _accept(self) -> BufferedRWPair:
        """The next rank 0. Raises JobFailed once the agent is gone."""
        assert self._agent is not None
        while not select.select([self._listener], [], [], POLL_S)[0]:
            self._raise_fault()
            if (status := self._agent.poll()) is not None:
                path = self.directory / GIVEN_UP
                why = path.read_text() if path.is_file() else f"the agent ended with status {status}"
                raise JobFailed(f"the cluster's workers failed: {why}"[:1000])
        connection, _ = self._listener.accept()
        self.connections += 1
        self._link = connection.makefile("rwb")
        connection.close()
        return self._link
