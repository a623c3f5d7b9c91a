"""The processes of the demo: started by the `msrt` command, killed without mercy, started again, and always ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msrt.errors import LocalError
from msrt.process import child_argv

__all__ = ["DemoFailed", "Member", "Tree", "program"]

LOOK_S: Final = 0.05
END_S: Final = 6.0


def program() -> str:
    """The `msrt` command of this installation: beside its interpreter, else the one on PATH."""
    beside = Path(sys.executable).with_name("msrt")
    return str(beside) if beside.exists() else shutil.which("msrt") or "msrt"


class DemoFailed(LocalError):
    """The story cannot go on."""

    code = "demo_failed"


@dataclass
class Member:
    """One node: its command line after the first join, its directory, its process."""

    name: str
    command: tuple[str, ...]
    folder: Path
    process: asyncio.subprocess.Process | None = None
    began: int = 0
    """Where this life's lines begin in the log."""

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    def lines(self) -> list[str]:
        """What this life has printed so far."""
        with self.log.open("rb") as file:
            file.seek(self.began)
            return file.read().decode("utf-8", "replace").splitlines()

    def said(self, word: str) -> str:
        """The rest of the first line that begins with a word, "" if there is none."""
        for line in self.lines():
            if line.split(" ")[0] == word or line.strip().startswith(f"{word} "):
                return line.strip().removeprefix(word).strip()
        return ""


class Tree:
    """All nodes under one folder. `keep`: they outlive us."""

    def __init__(self, folder: Path, *, keep: bool) -> None:
        self.folder, self.keep = folder, keep
        self.members: dict[str, Member] = {}

    def state(self, name: str) -> Path:
        """The state directory of a node."""
        return self.folder / name

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    async def start(self, name: str, *command: str, first: tuple[str, ...] = ()) -> Member:
        """Start `msrt COMMAND [FIRST] --state FOLDER/NAME`; `first` (the invite) is not given again at a restart."""
        member = self.members[name] = Member(name, (*command, "--state", str(self.state(name))), self.state(name))
        await self._launch(member, first)
        return member

    async def restart(self, name: str) -> Member:
        """Start a dead node again, from what it keeps on disk."""
        member = self.members[name]
        await self._launch(member, ())
        return member

    async def _launch(self, member: Member, first: tuple[str, ...]) -> None:
        role, verb, *rest = member.command
        argv = [program(), role, verb, *first, *rest]
        with member.log.open("ab") as log:
            member.began = log.seek(0, os.SEEK_END)
            starting = asyncio.ensure_future(
                asyncio.create_subprocess_exec(
                    *(argv if self.keep else child_argv(argv)),
                    stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=self.keep,
                )
            )  # fmt: skip
            try:
                member.process = await asyncio.shield(starting)
            except asyncio.CancelledError:  # whoever was started is known to `close`
                member.process = await starting
                raise

    async def ready(self, *names: str, within_s: float = 30.0) -> None:
        """Wait until they have said that they are ready. Raises DemoFailed with a node's last words."""
        await asyncio.gather(*(self._ready(self.members[name], within_s) for name in names))

    async def _ready(self, member: Member, within_s: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        while not any(line.startswith("ready") for line in member.lines()):
            assert member.process is not None
            if member.process.returncode is not None or loop.time() > until:
                last = " / ".join(member.lines()[-3:]) or "no word"
                raise DemoFailed(f"{member.name} did not become ready: {last}", hint=f"its log is {member.log}")
            await asyncio.sleep(LOOK_S)

    async def kill(self, name: str) -> None:
        """SIGKILL; returns when it is gone."""
        process = self.members[name].process
        assert process is not None
        process.kill()
        await process.wait()

    async def close(self) -> None:
        """End every process: gently, then not."""
        alive = [m.process for m in self.members.values() if m.process and m.process.returncode is None]
        for process in alive:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
        if alive:
            await asyncio.wait([asyncio.ensure_future(process.wait()) for process in alive], timeout=END_S)
        for process in alive:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    def pids(self) -> list[int]:
        """Of those that live."""
        return [m.process.pid for m in self.members.values() if m.process and m.process.returncode is None]
