"""The asyncio shell of a runner: starts it, asks it one thing at a time, pauses it, and kills it at a deadline.

A runner that died is started again by the next command: what it must remember lies in its directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import structlog

from msrt.buffers import Buffer, read_file, write_file
from msrt.errors import InvalidJob, JobFailed, words_of
from msrt.training import pipe
from msrt.training.bundle import unpack
from msrt.training.cluster.door import Ask, Door
from msrt.training.forks import CannotFork, ForkedRunner, ForkServer
from msrt.training.leavings import clear
from msrt.training.settings import JobConfig
from msrt.training.tails import Tail
from msrt.training.task import Node
from msrt.training.trainer import Export, Step
from msrt.world.world import World

__all__ = ["TrainerHost", "signal_group"]

OPEN_WITHIN: Final = 60.0
"""Seconds for a runner to import torch and the task, on a busy small machine."""
STOP_WITHIN: Final = 2.0
ENDS_WITHIN: Final = 20.0
"""Seconds from a process's last word to its end: at its priority the kernel may take a while to tidy up after it."""
LINES: Final = 40
LINE_LIMIT: Final = 64 << 10

A = TypeVar("A", bound=pipe.Answer)
log = structlog.get_logger()


def signal_group(leader: int, number: signal.Signals) -> None:
    """To a child that is not reaped, and to whatever it started.

    One that was forked a moment ago leads no group yet, and has started nothing: it alone is meant then.
    """
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        with contextlib.suppress(ProcessLookupError):  # it died just now, and is reaped in a moment
            os.kill(leader, number)


class TrainerHost:
    """Implements `Trainer` and `Workshop`. `directory` is this job's own on this node; `data` goes into MSRT_DATA."""

    def __init__(
        self, world: World, directory: Path, data: str = "", tail: Tail | None = None, forks: ForkServer | None = None,
        meet: Ask | None = None,
    ) -> None:  # fmt: skip
        self.world, self.directory, self.data, self._forks = world, directory, data, forks
        self._door = Door(meet) if meet is not None else None
        """Where a group of several nodes asks for the others: who only makes or judges models needs none."""
        self._grouped = False
        self.tail = tail or Tail()
        """Every line, over the lives of all its runners: for who asks."""
        self.lines: deque[str] = deque(maxlen=LINES)
        """The last lines the job wrote in the life of this runner: for errors."""
        self.paused = False
        self.size = 0
        self._process: Process | ForkedRunner | None = None
        self._reader: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._rooms: dict[str, memoryview] = {}
        self._decoder: msgspec.json.Decoder[pipe.Answer] = msgspec.json.Decoder(pipe.Answer)

    @property
    def pid(self) -> int | None:
        """Of the runner, while it lives."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self, bundle: Buffer) -> JobConfig:
        """Unpack the job and start its runner. Raises InvalidJob, JobFailed."""
        async with self._turn:
            await self._end()
            config: JobConfig = await self.world.offload(self._unpack, bundle)
            self._grouped = config.cluster is not None and config.cluster.nodes > 1
            if self._grouped and self._door is not None:
                await self._door.open(self.directory / "cluster")
            await self._spawn()
        return config

    def _unpack(self, bundle: Buffer) -> JobConfig:
        fresh = self.directory / "sources.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        config = unpack(bundle, fresh)
        shutil.rmtree(self.directory / "sources", ignore_errors=True)
        fresh.rename(self.directory / "sources")
        return config

    async def train(
        self,
        node: Node,
        round_: int,
        weights: Buffer | Path,
        encoding: str,
        within: float,
        asked: pipe.Asked = pipe.WHOLE,
    ) -> pipe.Trained:
        """One round on this node's data; `seconds` is added to the metrics. Raises JobFailed, InvalidJob."""
        began = self.world.now()
        if self._grouped and self._door is None:
            raise InvalidJob("[cluster] nodes: this node has no way to others")
        async with self._turn:
            source, target, data = self._path("weights"), self._path("update"), b""
            if isinstance(weights, Path):
                source = weights
            elif len(weights) <= pipe.INLINE:
                data = bytes(weights)
            else:
                await self.world.offload(write_file, source, weights)
            command = pipe.DoTrain(round_, node, str(source), str(target), encoding, asked, data)
            trained = await self._ask(command, pipe.Trained, within)
        metrics = trained.metrics | {"seconds": self.world.now() - began}
        return msgspec.structs.replace(trained, payload=trained.data or target, data=b"", metrics=metrics)

    def room(self, name: str, size: int) -> memoryview:
        """A file of this job's directory, mapped by this process and by the runner. Raises OSError."""
        known = self._rooms.get(name)
        if known is None or len(known) != size:
            self.directory.mkdir(parents=True, exist_ok=True)
            with self._path(name).open("w+b") as file:
                file.truncate(size)
                known = self._rooms[name] = memoryview(mmap.mmap(file.fileno(), size))
        return known

    async def step(self, step: Step, within: float) -> pipe.Stepped:
        """One clock of a worker, from room to room. Raises JobFailed."""
        async with self._turn:
            paths = str(self._path(step.weights)), str(self._path(step.target))
            command = pipe.DoStep(step.node, step.clock, *paths, step.spans, step.encoding, step.judge)
            return await self._ask(command, pipe.Stepped, within)

    async def initial(self, within: float = OPEN_WITHIN) -> Buffer:
        """The weights everybody starts from. Raises JobFailed."""
        async with self._turn:
            target = self._path("initial")
            await self._ask(pipe.DoInitial(str(target)), pipe.Done, within)
            found: Buffer = await self.world.offload(read_file, target)
        return found

    async def evaluate(self, weights: Buffer, nodes: Sequence[Node], within: float) -> pipe.Evaluated:
        """Judge weights on the test data of these nodes, which this machine must be able to load. Raises JobFailed."""
        async with self._turn:
            source = self._path("weights")
            await self.world.offload(write_file, source, weights)
            return await self._ask(pipe.DoEvaluate(str(source), tuple(nodes)), pipe.Evaluated, within)

    async def export(self, weights: Buffer, within: float) -> Export:
        """The model as ONNX, with reference data where the task gives some. Raises JobFailed."""
        async with self._turn:
            source = self._path("weights")
            await self.world.offload(write_file, source, weights)
            paths = [self._path(name) for name in ("model.onnx", "calibration.npy", "evaluation.npz")]
            answer = await self._ask(pipe.DoExport(str(source), *map(str, paths)), pipe.Exported, within)
            wanted = paths if answer.reference else paths[:1]
            return Export(*[await self.world.offload(path.read_bytes) for path in wanted])

    async def personal(self, weights: Buffer | Path, most: int, within: float) -> tuple[int, Path]:
        """This node's own model as ONNX: of which round what it kept is, and a file that is the caller's from then on.
        Raises JobFailed.
        """
        async with self._turn:
            source, target = self._path("weights"), self._path("personal.onnx")
            if isinstance(weights, Path):
                source = weights
            else:
                await self.world.offload(write_file, source, weights)
            answer = await self._ask(pipe.DoPersonal(str(source), str(target), most), pipe.Personal, within)
            return answer.round, target

    async def baseline(self, nodes: Sequence[Node], within: float) -> pipe.Baselined:
        """Accuracy of each node alone and of pooled data. Raises JobFailed."""
        async with self._turn:
            return await self._ask(pipe.DoBaseline(tuple(nodes)), pipe.Baselined, within)

    def pause(self) -> None:
        """SIGSTOP: not a cycle more until `resume`. A runner started meanwhile stops as well."""
        self.paused = True
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.paused = False
        self._signal(signal.SIGCONT)

    async def stop(self, *, for_good: bool = False) -> None:
        """End the runner: a command under way fails. For good: the directory goes as well, `start` begins anew."""
        self._signal(signal.SIGKILL)
        if self._door is not None:
            self._door.close()
        async with self._turn:
            await self._end()
            if for_good:
                await self.world.offload(clear, self.directory, "")

    def _path(self, name: str) -> Path:
        return self.directory / name

    def _signal(self, number: signal.Signals) -> None:
        """To the runner and whatever it started: it leads a process group of its own."""
        if self.pid is not None:
            signal_group(self.pid, number)

    async def _spawn(self) -> None:
        self.lines.clear()
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": os.environ.get("HOME", str(self.directory)),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "MSRT_DATA": self.data,
            "OMP_NUM_THREADS": "1",
        }
        self._process = await self._forked(environment) or await self._started(environment)
        self._reader = asyncio.create_task(self._read_lines(self._process))
        log.info("training.runner_started", pid=self._process.pid, directory=str(self.directory))
        if self.paused:
            self._signal(signal.SIGSTOP)
        opening = pipe.Open(str(self.directory / "sources"), str(self.directory))
        self.size = (await self._exchange(opening, pipe.Done, OPEN_WITHIN)).size

    async def _forked(self, environment: dict[str, str]) -> ForkedRunner | None:
        """A runner with torch loaded, where this node keeps a forkserver."""
        if self._forks is None:
            return None
        try:
            return await self._forks.start(self.directory, environment, LINE_LIMIT)
        except CannotFork as error:
            log.warning("training.not_forked", why=words_of(error), directory=str(self.directory))
            return None

    async def _started(self, environment: dict[str, str]) -> Process:
        arguments = (sys.executable, "-u", "-P", "-m", "msrt.training.runner", "--parent", str(os.getpid()))
        return await asyncio.create_subprocess_exec(
            *arguments,
            stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=self.directory, env=environment, start_new_session=True,
            limit=LINE_LIMIT,
        )  # fmt: skip

    async def _read_lines(self, process: Process | ForkedRunner) -> None:
        """Keep the last lines of stderr, whole however they come; one without an end is cut at a limit."""
        assert process.stderr is not None
        rest = ""
        try:
            while chunk := await process.stderr.read(LINE_LIMIT):
                *whole, rest = (rest + chunk.decode(errors="replace")).split("\n")
                for line in whole:
                    self._say(line)
                if len(rest) > LINE_LIMIT:
                    self._say(rest)
                    rest = ""
        finally:
            self._say(rest)

    async def _ask(self, command: pipe.Command, kind: type[A], within: float) -> A:
        if self.pid is None:
            await self._end()
            await self._spawn()
        return await self._exchange(command, kind, within)

    async def _exchange(self, command: pipe.Command, kind: type[A], within: float) -> A:
        """One command, one answer. Any other end, a cancelled caller's too, kills the runner."""
        name = pipe.DOING[type(command)]
        whole = False
        try:
            async with asyncio.timeout(within):
                body = await self._round_trip(pipe.encode(command))
            answer = self._decoder.decode(body)
            whole = True
        except TimeoutError:
            late = f"{name} took longer than the {max(0.0, within):.3g} s that were left, and was killed"
            self.tail.add(f"[msrt] {late}")
            raise JobFailed(late, hint=self._last()) from None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self.tail.add(f"[msrt] {name}: the process answered nonsense")
            raise JobFailed(f"{name}: the job's process answered nonsense", hint=self._last()) from None
        except (asyncio.IncompleteReadError, ConnectionError):
            cause = await self._cause()
            self.tail.add(f"[msrt] {name}: the process {cause}")
            raise JobFailed(f"{name}: the job's process {cause}", hint=self._last()) from None
        finally:
            if not whole:
                await self._end()
        if isinstance(answer, pipe.Faulty):
            for line in answer.trace.splitlines():
                self._say(line)
            raise JobFailed(f"{name}: {answer.text}")
        if not isinstance(answer, kind):
            raise JobFailed(f"{name}: the runner answered {type(answer).__name__}")
        return answer

    async def _round_trip(self, request: bytes) -> bytes:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request)
        await process.stdin.drain()
        length = int.from_bytes(await process.stdout.readexactly(4), "little")
        if length > pipe.FRAME_LIMIT:
            raise msgspec.DecodeError(f"an answer of {length} bytes")
        return await process.stdout.readexactly(length)

    async def _cause(self) -> str:
        """How the process ended that hung up, in words."""
        process = self._process
        assert process is not None
        try:
            async with asyncio.timeout(ENDS_WITHIN):
                code = await process.wait()
        except TimeoutError:
            return "hung up and did not end"
        if self._reader is not None:  # what it wrote last; a child of its own may hold its stderr open
            await asyncio.wait([self._reader], timeout=STOP_WITHIN)
        if code == -signal.SIGXCPU:
            return "ran over its CPU limit"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

    def _say(self, line: str) -> None:
        line = line.rstrip()
        if line:
            self.lines.append(line[:500])
            self.tail.add(line)

    def _last(self) -> str:
        """The last lines it wrote, for the error."""
        return " | ".join(list(self.lines)[-3:])

    async def _end(self) -> None:
        """Kill the runner and reap it."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            signal_group(process.pid, signal.SIGKILL)
        await process.wait()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        if process.stdin is not None:
            process.stdin.close()
        log.info("training.runner_ended", pid=process.pid, status=process.returncode)
