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
from typing import Any, Final

import msgspec
import torch
import torch.distributed as dist

from msrt.errors import InvalidJob, JobFailed
from msrt.learning import vector
from msrt.learning.vector import Vector
from msrt.training import pipe
from msrt.training.batches import joined, prepared
from msrt.training.cluster.data import Samples
from msrt.training.cluster.door import near
from msrt.training.cluster.engine import Engine, open_engine
from msrt.training.cluster.group import FAULT, SOCKET
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
    with telling(folder) as shared:
        place = join(config.cluster, HERE, port) if config.cluster else None
        assert place is not None
        shared.append(place.store)
        Worker(config, place, Path(sources), folder).serve()
        dist.destroy_process_group()


class Worker:
    """Keeps the model and the data between rounds."""

    def __init__(self, config: JobConfig, place: Place, sources: Path, directory: Path) -> None:
        self.config, self.place, self.directory = config, place, directory
        self.task = load_task(config.task, sources, config.options)
        self._engine: Engine | None = None
        self._samples: dict[tuple[tuple[str, int, int], ...], Samples] = {}
        self._link = _connect(directory) if place.local == 0 else None

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
        """The next round: a node's first rank is told, and tells the others through the store. Empty: there is none."""
        key, store = f"round/{self.place.machine}/{turn}", self.place.store
        if self._link is not None:
            body = pipe.read(self._link) or b""
            store.set(key, body.decode())
            return body
        while True:
            with contextlib.suppress(dist.DistStoreError):
                store.wait([key], PATIENCE)
                return bytes(store.get(key))

    def _round(self, command: DoRound) -> RoundDone:
        nodes = self._members(command)
        own = len(self._data([command.node]))
        if not own:
            raise InvalidJob(f"node {command.node.id} has no training data")
        samples = self._data(nodes)
        layout, weights = vector.load(Path(command.weights).read_bytes())
        if self._engine is None:
            self._engine = open_engine(self.task, self.config, self.place, samples, self.directory)
        if layout != self._engine.layout:
            raise InvalidJob("the weights are those of another model than the task's")
        saved = Checkpoints(self._saved(nodes), f"{command.round}-{nodes[0].index}-{command.key}")
        together = msgspec.structs.replace(command, node=nodes[0])  # every rank throws the same dice
        metrics = train(self._engine, samples, weights, self.config, together, saved)
        after = self._shared(self._engine.weights(), layout.size) if len(nodes) > 1 else self._engine.weights()
        if after is not None and self._link is not None:
            after.tofile(command.result)
        saved.forget()
        return RoundDone(own, metrics)

    def _members(self, command: DoRound) -> list[Node]:
        """The nodes of the group, by rank. Collective. Raises JobFailed where the others are in a later round."""
        assert self.config.cluster is not None
        if self.config.cluster.nodes == 1:
            return [command.node]
        said: list[Any] = [None] * self.place.world
        dist.all_gather_object(said, (self.place.machine, command.round, command.key, command.node))
        newest = max(round_ for _, round_, _, _ in said)
        if command.round < newest:
            raise JobFailed(f"round {command.round} is over: the group's other nodes are in round {newest}")
        if len({(round_, key) for _, round_, key, _ in said}) > 1:
            raise ConnectionError("a node of the group is in another round")
        return [node for _, node in sorted({machine: node for machine, _, _, node in said}.items())]

    def _shared(self, weights: Vector | None, size: int) -> Vector:
        """Those of rank 0, on every node. Collective."""
        whole = torch.empty(size) if weights is None else torch.from_numpy(weights)
        whole = whole.to(self.place.device)
        dist.broadcast(whole, 0)
        found: Vector = whole.cpu().numpy()
        return found

    def _saved(self, nodes: list[Node]) -> Path:
        """Where checkpoints lie: those of several nodes where all see them, under the job's name on this node."""
        assert self.config.cluster is not None
        if len(nodes) == 1 or not self.config.cluster.shared:
            return self.directory / "saved"
        return Path(self.config.cluster.shared) / self.directory.parent.name / nodes[0].id

    def _data(self, nodes: list[Node]) -> Samples:
        """What these nodes train on, one after the other."""
        key = tuple((node.id, node.index, node.count) for node in nodes)
        if key not in self._samples:
            parts = [self.task.data(node)[0] for node in nodes]
            self._samples[key] = Samples(parts[0] if len(parts) == 1 else joined([prepared(part) for part in parts]))
        return self._samples[key]


@contextlib.contextmanager
def telling(directory: Path) -> Iterator[list[dist.Store]]:
    """The first fault of user code is written down: the runner need not wait for restarts that would find it again.

    In the store that is put into the list, too, once there is one: on the group's other nodes it is the same fault.
    """
    shared: list[dist.Store] = []
    try:
        yield shared
    except Exception as error:
        if _of_others(error):
            threading.Event().wait(SEEN_S)  # whoever died is the cause: the agent shall see that one first
            _hear(directory, shared)
        else:
            traceback.print_exc(file=sys.stderr)
            _tell(directory, error, shared)
        raise


def _of_others(error: Exception) -> bool:
    return isinstance(error, dist.DistError | ConnectionError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in OTHERS)
    )


def _hear(directory: Path, shared: list[dist.Store]) -> None:
    """What another node's user code raised; the store may be gone with its agent."""
    with contextlib.suppress(dist.DistError, RuntimeError):
        for store in shared:
            if store.check([FAULT]):
                _write(directory, bytes(store.get(FAULT)))


def _tell(directory: Path, error: Exception, shared: list[dist.Store]) -> None:
    rank = int(os.environ["RANK"])
    frames = traceback.extract_tb(error.__traceback__)[-LINES:]
    where = " | ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.line}" for frame in frames)
    refused = isinstance(error, InvalidJob)
    text = str(error) if refused else f"{type(error).__name__}: {error}"
    fault = msgspec.json.encode(Fault(rank, text[:1000], where[:1000], refused))
    with contextlib.suppress(dist.DistError, RuntimeError):
        for store in shared if not isinstance(error, JobFailed) else ():
            store.set(FAULT, fault.decode())
    _write(directory, fault)


def _write(directory: Path, fault: bytes) -> None:
    fresh = directory / f"fault-{os.environ['RANK']}.new"
    fresh.write_bytes(fault)
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
