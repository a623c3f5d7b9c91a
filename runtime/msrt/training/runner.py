"""A job's own process: `python -P -m msrt.training.runner --parent PID`, started by `host.py`.

It lowers its priority, dies with its parent, limits itself before it loads a line of the user's code, and then answers
one command after another on its pipes, keeping torch and the data loaded. What user code prints goes to stderr. Between
rounds only the error feedback is kept on disk: a file a round, so that a round trained again begins where it began.
"""

from __future__ import annotations

import io
import mmap
import os
import sys
import time
import traceback
import zlib
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec
import numpy as np

from msrt.buffers import Rooms, write_file
from msrt.errors import Corrupt, InvalidJob, MsrtError
from msrt.learning import vector
from msrt.learning.compress import Codec, ErrorFeedback, open_codec
from msrt.training import pipe
from msrt.training.limits import allow_cpu, die_with, limit
from msrt.training.settings import CONFIG, JobConfig, parse_config
from msrt.training.shelf import Keeper, Shelf

if TYPE_CHECKING:
    from msrt.training.local import Local
    from msrt.training.steps import Steps

NICE: Final = 10
TRACE: Final = 4000
SOURCES: Final = "sources"
"""The folder of a bundle's files, as `host.py` names it."""


def pipes() -> tuple[BinaryIO, BinaryIO]:
    """Take stdin and stdout for ourselves: user code reads nothing and prints to stderr."""
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return source, target


class Residuals:
    """The error feedback of each round; a round begins with that of an earlier one."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def before(self, round_: int, codec: Codec, seed: int) -> ErrorFeedback:
        """The state to begin this round with; a broken one means zero."""
        earlier = self._keeper.before("residual", round_)
        if earlier is None:
            return ErrorFeedback(codec, seed)
        try:
            return ErrorFeedback.load(earlier, codec, seed)
        except Corrupt as error:
            print(f"error feedback dropped: {error}", file=sys.stderr)  # noqa: T201 - stderr is the job's log
            return ErrorFeedback(codec, seed)

    def keep(self, round_: int, feedback: ErrorFeedback) -> None:
        if not feedback.empty:
            self._keeper.keep("residual", round_, bytes(feedback.save()))


class Runner:
    """Answers commands; holds the loaded task."""

    def __init__(self) -> None:
        self.config: JobConfig | None = None
        self.local: Local | None = None
        self.shelf: Shelf | None = None
        self.steps: Steps | None = None
        self._rooms: dict[str, memoryview] = {}
        self._made = Rooms(1)
        """For payloads, round after round."""

    def answer(self, command: pipe.Command) -> pipe.Answer:
        """Carry out one command. Raises whatever user code raises."""
        if isinstance(command, pipe.Open):
            return self._open(command)
        if self.local is None or self.shelf is None or self.config is None:
            raise InvalidJob("no job is open")
        allow_cpu(self.config.limits.cpu_s)
        match command:
            case pipe.DoInitial(weights):
                Path(weights).write_bytes(vector.save(self.local.layout, self.local.initial()))
                return pipe.Done(self.local.layout.size)
            case pipe.DoTrain():
                return self._train(self.local, self.shelf, command)
            case pipe.DoStep():
                return self._step(self.local, command)
            case pipe.DoEvaluate(weights, nodes):
                return pipe.Evaluated(*self.local.evaluate(self._weights(self.local, weights), nodes))
            case pipe.DoExport():
                return self._export(self.local, command)
            case pipe.DoPersonal(weights, model, most):
                flat = self._weights(self.local, weights)
                return pipe.Personal(self.local.personal(flat, self.shelf, most, model))
            case pipe.DoBaseline(nodes):
                alone, pooled = self.local.baseline(nodes)
                return pipe.Baselined(tuple(alone), sum(alone) / len(alone), pooled)

    def _open(self, command: pipe.Open) -> pipe.Answer:
        sources = Path(command.sources)
        self.config = parse_config((sources / CONFIG).read_text())
        limit(self.config.limits)
        try:
            from msrt.training.local import Local, load_task  # noqa: PLC0415 - brings torch, after the limits
        except ModuleNotFoundError as error:
            raise InvalidJob(f"this node has no {error.name}", hint="pip install 'msrt[train]'") from error
        allow_cpu(self.config.limits.cpu_s)  # the job's own: loading torch takes one to four CPU seconds
        task = load_task(self.config.task, sources, self.config.options)
        now = time.monotonic  # noqa: TID251 - no simulation reaches this process
        if self.config.cluster is None:
            self.local = Local(task, self.config, now)
        else:
            from msrt.training.cluster.local import ClusterLocal  # noqa: PLC0415 - only a cluster needs it

            self.local = ClusterLocal(task, self.config, now, sources, Path(command.work))
        self.shelf = Shelf(Path(command.work))
        return pipe.Done(self.local.layout.size)

    def _weights(self, local: Local, path: str, data: bytes = b"") -> vector.Vector:
        layout, flat = vector.load(data or _mapped(Path(path)))
        if layout != local.layout:
            raise InvalidJob("the weights are those of another model than the task's")
        return flat

    def _train(self, local: Local, shelf: Shelf, command: pipe.DoTrain) -> pipe.Trained:
        weights = self._weights(local, command.weights, command.data)
        asked, residuals = command.asked, Residuals(shelf)
        local.noise = asked.noise
        delta, samples, metrics = local.train(
            weights, command.node, command.round, within=asked.work_s, keeper=shelf, counted=asked.counted
        )
        if local.config.privacy is not None:
            from msrt.training.private import Shield  # noqa: PLC0415 - brings cryptography

            samples = 1  # how many there are is nobody's business
            delta, metrics = Shield(local.config.privacy, shelf.work, asked).leave(delta, metrics)
        seed = zlib.crc32(f"{local.config.seed}/{command.node.id}".encode())
        feedback = residuals.before(command.round, open_codec(command.encoding, local.layout), seed)
        room = self._made.take(max(feedback.codec.bytes, 1))
        payload = feedback.encode(delta, command.round, lent=True, room=room[: feedback.codec.bytes])
        residuals.keep(command.round, feedback)
        data = bytes(payload) if len(payload) <= pipe.INLINE else b""
        if not data:
            write_file(Path(command.update), payload)
        self._made.give(room)
        return pipe.Trained(samples, delta.size, command.encoding, metrics, data=data)

    def _step(self, local: Local, command: pipe.DoStep) -> pipe.Stepped:
        if self.steps is None:
            from msrt.training.steps import Steps  # noqa: PLC0415 - brings torch, as the task does

            settings = local.config.parameter_server
            if settings is None:
                raise InvalidJob("the job has no [parameter_server]")
            self.steps = Steps(local, settings)
        steps, size = self.steps, 4 * local.layout.size
        weights = np.frombuffer(self._room(command.weights, size), np.float32)
        push, samples, data, metrics = steps.step(weights, command.node, command.clock, judge=command.judge)
        seed = zlib.crc32(f"{local.config.seed}/{command.node.id}".encode())
        payloads = steps.encode(push, command.spans, command.encoding, command.clock, seed)
        target, at = self._room(command.target, sum(map(len, payloads))), 0
        for payload in payloads:
            target[at : at + len(payload)] = payload
            at += len(payload)
        return pipe.Stepped(samples, data, metrics)

    def _room(self, path: str, size: int) -> memoryview:
        """A file that the host shares, mapped once."""
        room = self._rooms.get(path)
        if room is None or len(room) != size:
            with Path(path).open("r+b") as file:
                room = self._rooms[path] = memoryview(mmap.mmap(file.fileno(), size))
        return room

    def _export(self, local: Local, command: pipe.DoExport) -> pipe.Exported:
        local.export(self._weights(local, command.weights), command.model)
        reference = local.reference()
        if reference is None:
            return pipe.Exported(reference=False)
        calibration, (features, labels) = reference
        np.save(command.calibration, calibration)
        np.savez(command.evaluation, x=features, y=labels)
        return pipe.Exported(reference=True)


def _mapped(path: Path) -> memoryview:
    """A file as it lies in the page cache, read only and without a copy."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE | mmap.MAP_POPULATE, mmap.PROT_READ))


def told(error: Exception) -> str:
    """An error in one line: ours as the sentence it is, the task's with the last of its own lines on the way there."""
    if isinstance(error, MsrtError):
        return str(error)
    text = f"{type(error).__name__}: {error}"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if SOURCES in Path(frame.filename).parts]
    return f"{text} ({Path(own[-1].filename).name}, line {own[-1].lineno}, in {own[-1].name})" if own else text


def serve(source: BinaryIO, target: BinaryIO) -> None:
    """Answer until the host closes the pipe."""
    decoder: msgspec.json.Decoder[pipe.Command] = msgspec.json.Decoder(pipe.Command)
    runner = Runner()
    while body := pipe.read(source):
        answer: pipe.Answer
        try:
            answer = runner.answer(decoder.decode(body))
        except Exception as error:  # noqa: BLE001 - user code may raise anything; the host is told and decides
            trace = io.StringIO()
            traceback.print_exc(file=trace)
            answer = pipe.Faulty(told(error)[:1000], trace.getvalue()[-TRACE:])
        target.write(pipe.encode(answer))
        target.flush()


def main() -> None:
    """Settle in, then serve."""
    parser = ArgumentParser(prog="msrt.training.runner", description=__doc__)
    parser.add_argument("--parent", type=int, required=True, help="process id of the host")
    die_with(parser.parse_args().parent)
    os.nice(NICE)
    serve(*pipes())


if __name__ == "__main__":
    main()
