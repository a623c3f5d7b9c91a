"""A worker of the group: joins, waits for rounds, trains its share of each. Forked for the elastic agent."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from io import BufferedRWPair
from pathlib import Path
from typing import Final

import msgspec
import torch.distributed as dist

from msrt.errors import InvalidJob
from msrt.learning import vector
from msrt.training import pipe
from msrt.training.cluster.data import Samples
from msrt.training.cluster.engine import Engine, open_engine
from msrt.training.cluster.group import FAULT, SOCKET, near
from msrt.training.cluster.loop import train
from msrt.training.cluster.messages import DoRound, Fault, RoundDone, encode
from msrt.training.cluster.place import Place, join
from msrt.training.cluster.saved import Checkpoints
from msrt.training.limits import allow_cpu, die_with
from msrt.training.local import load_task
from msrt.training.settings import CONFIG, JobConfig, parse_config
from msrt.training.task import Node

__all__ = ["work"]

HERE: Final = "127.0.0.1"
PATIENCE: Final = dt.timedelta(minutes=1)
OTHERS: Final = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""What a rank says that lost another: that one's fault is told, or the agent saw it die."""
SEEN_S: Final = 0.5
"""The agent looks ten times a second who has died."""
LINES: Final = 4


def work(sources: str, directory: str, port: int) -> None:
    """One life of a worker. Raises what user code raises, for the agent to see."""
    die_with(os.getppid())
    folder = Path(directory)
    config = parse_config((Path(sources) / CONFIG).read_text())
    with telling(folder):
        place = join(config.cluster, HERE, port) if config.cluster else None
        assert place is not None
        Worker(config, place, Path(sources), folder).serve()
        dist.destroy_process_group()


class Worker:
    """Keeps the model and the data between rounds."""

    def __init__(self, config: JobConfig, place: Place, sources: Path, directory: Path) -> None:
        self.config, self.place, self.directory = config, place, directory
        self.task = load_task(config.task, sources, config.options)
        self._engine: Engine | None = None
        self._samples: dict[tuple[str, int, int], Samples] = {}
        self._link = _connect(directory) if place.rank == 0 else None

    def serve(self) -> None:
        """Train one round after another, until the runner hangs up."""
        turn = 0
        while body := self._next(turn):
            allow_cpu(self.config.limits.cpu_s)
            done = self._round(msgspec.json.decode(body, type=DoRound))
            if self._link is not None:
                self._link.write(encode(done))
                self._link.flush()
            turn += 1

    def _next(self, turn: int) -> bytes:
        """The next round: rank 0 is told, and tells the others through the store. Empty: there is none."""
        key, store = f"round/{turn}", self.place.store
        if self._link is not None:
            body = pipe.read(self._link) or b""
            store.set(key, body.decode())
            return body
        while True:
            with contextlib.suppress(dist.DistStoreError):
                store.wait([key], PATIENCE)
                return bytes(store.get(key))

    def _round(self, command: DoRound) -> RoundDone:
        samples = self._data(command.node)
        if not len(samples):
            raise InvalidJob(f"node {command.node.id} has no training data")
        layout, weights = vector.load(Path(command.weights).read_bytes())
        if self._engine is None:
            self._engine = open_engine(self.task, self.config, self.place, samples, self.directory)
        if layout != self._engine.layout:
            raise InvalidJob("the weights are those of another model than the task's")
        saved = Checkpoints(self.directory / "saved", f"{command.round}-{command.node.index}-{command.key}")
        metrics = train(self._engine, samples, weights, self.config, command, saved)
        after = self._engine.weights()
        if after is not None:
            after.tofile(command.result)
        saved.forget()
        return RoundDone(len(samples), metrics)

    def _data(self, node: Node) -> Samples:
        key = (node.id, node.index, node.count)
        if key not in self._samples:
            self._samples[key] = Samples(self.task.data(node)[0])
        return self._samples[key]


@contextlib.contextmanager
def telling(directory: Path) -> Iterator[None]:
    """The first fault of user code is written down: the runner need not wait for restarts that would find it again."""
    try:
        yield
    except Exception as error:
        if _of_others(error):
            threading.Event().wait(SEEN_S)  # whoever died is the cause: the agent shall see that one first
        else:
            traceback.print_exc(file=sys.stderr)
            _tell(directory, error)
        raise


def _of_others(error: Exception) -> bool:
    return isinstance(error, dist.DistError | ConnectionError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in OTHERS)
    )


def _tell(directory: Path, error: Exception) -> None:
    rank = int(os.environ["RANK"])
    frames = traceback.extract_tb(error.__traceback__)[-LINES:]
    where = " | ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.line}" for frame in frames)
    refused = isinstance(error, InvalidJob)
    text = str(error) if refused else f"{type(error).__name__}: {error}"
    fresh = directory / f"fault-{rank}.new"
    fresh.write_bytes(msgspec.json.encode(Fault(rank, text[:1000], where[:1000], refused)))
    with contextlib.suppress(FileExistsError):
        os.link(fresh, directory / FAULT)
    fresh.unlink()


def _connect(directory: Path) -> BufferedRWPair:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.connect(near(descriptor, SOCKET))
            return link.makefile("rwb")
    finally:
        os.close(descriptor)
