"""A machine by the system's own `ssh`: authenticated once, over one connection, as the user has it configured.

Whether a host's key is known is ssh's to decide and the user's to say: nothing here turns that check off.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from msrt.errors import InvalidAddress, LocalError

__all__ = ["Host", "HostFailed", "Remote"]

SCHEME: Final = "ssh://"
_URL: Final = re.compile(
    r"ssh://(?:([A-Za-z0-9_][A-Za-z0-9_.-]{0,63})@)?(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9][A-Za-z0-9_.-]{0,252})(?::(\d{1,5}))?/?"
)
CONNECT_S: Final = 20
PIECE: Final = 1 << 18
FAILED: Final = 255
"""Status of ssh itself; others are those of what ran there."""


class HostFailed(LocalError):
    """A machine cannot be reached over SSH, or what was done there failed."""

    code = "host_failed"


@dataclass(frozen=True)
class Remote:
    """Where a machine is."""

    host: str
    user: str = ""
    port: int = 0
    """0: as ssh is configured."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises InvalidAddress."""
        found = _URL.fullmatch(url)
        if found is None or not int(found[3] or 22) < 65536:
            raise InvalidAddress(f"{url!r} is no address over SSH", hint="write it as ssh://USER@HOST:PORT")
        return cls(found[2].strip("[]"), found[1] or "", int(found[3] or 0))

    def __str__(self) -> str:
        return f"{self.user}@{self.host}" if self.user else self.host


class Host:
    """An open connection; whatever runs there has a deadline."""

    def __init__(self, remote: Remote, config: Path | None = None) -> None:
        self.remote = remote
        self._config = config
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._argv: list[str] = []

    def __enter__(self) -> Self:
        if shutil.which("ssh") is None:
            raise HostFailed("there is no ssh here", hint="apt install openssh-client")
        self._folder = tempfile.TemporaryDirectory(prefix="msrt-ssh-")
        self._argv = [
            "ssh", *(["-F", str(self._config)] if self._config else []), "-o", f"ConnectTimeout={CONNECT_S}",
            "-o", "ServerAliveInterval=15", "-o", "ControlMaster=auto", "-o", "ControlPersist=120",
            "-o", f"ControlPath={self._folder.name}/%C", *(["-l", self.remote.user] if self.remote.user else []),
            *(["-p", str(self.remote.port)] if self.remote.port else []),
        ]  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(  # noqa: S603 - the system's own ssh
                [*self._argv, "-O", "exit", self.remote.host], capture_output=True, check=False, timeout=10
            )
        if self._folder is not None:
            self._folder.cleanup()

    def run(self, script: str, *arguments: str, timeout_s: float = 60.0) -> str:
        """A shell script there; what it printed. Raises HostFailed with what it said."""
        return self._finish(self._start(script, arguments, subprocess.DEVNULL), timeout_s)

    def put(self, data: IO[bytes], size: int, path: str, progress: Callable[[int, int], None]) -> None:
        """A file there that nobody else may read. Raises HostFailed."""
        running = self._start('umask 077; cat >"$1"', (path,), subprocess.PIPE)
        assert running.stdin is not None
        done = 0
        with suppress(BrokenPipeError):
            while piece := data.read(PIECE):
                running.stdin.write(piece)
                done += len(piece)
                progress(done, size)
        with suppress(BrokenPipeError):
            running.stdin.close()
        running.stdin = None
        self._finish(running, 120.0)

    def _start(self, script: str, arguments: tuple[str, ...], stdin: int) -> subprocess.Popen[bytes]:
        command = shlex.join(["sh", "-uc", script, "sh", *arguments])
        # ssh asks on the terminal, if there is one, for passwords and about hosts that it does not know.
        return subprocess.Popen(  # noqa: S603 - the system's own ssh
            [*self._argv, "--", self.remote.host, command], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def _finish(self, running: subprocess.Popen[bytes], timeout_s: float) -> str:
        try:
            out, err = running.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            running.kill()
            running.communicate()
            raise HostFailed(f"{self.remote} did not answer within {timeout_s:g} s") from None
        if running.returncode == FAILED:
            raise self._unreachable(err.decode("utf-8", "replace").strip())
        if running.returncode:
            said = (err or out).decode("utf-8", "replace").strip().splitlines()[-12:]
            raise HostFailed(f"{self.remote}: {' / '.join(said) or f'status {running.returncode}'}")
        return out.decode("utf-8", "replace")

    def _unreachable(self, said: str) -> HostFailed:
        port = f"-p {self.remote.port} " if self.remote.port else ""
        hint = f"try by hand: ssh {port}{self.remote}"
        if "Host key verification failed" in said or "host key" in said.lower():
            hint += "; it asks whether you know the machine's key: compare the fingerprint with the machine's own"
        last = said.splitlines()[-1] if said else "ssh said nothing"
        return HostFailed(f"{self.remote} cannot be reached: {last}", hint=hint)
