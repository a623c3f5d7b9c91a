"""torchrun's rendezvous over the tree: an agent of one node of a group asks its node, that asks its edge."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import socket
import threading
import time
from pathlib import Path
from typing import Final

import msgspec
from torch.distributed import DistError, TCPStore
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousParameters
from torch.distributed.elastic.rendezvous.api import RendezvousStoreInfo, rendezvous_handler_registry

from msrt.training.cluster.door import DOOR, near
from msrt.training.cluster.meeting import Meet, Met

__all__ = ["NAME", "register"]

NAME: Final = "msrt"
POLL_S: Final = 0.2
TOGETHER: Final = dt.timedelta(seconds=20)
"""Between the seating of a group and the arrival of all at rank 0's store."""
LOOK_S: Final = 1.0
"""Between two questions whether somebody waits."""


def register() -> None:
    """Have torchrun know it by its name."""
    rendezvous_handler_registry.register(NAME, _OverTree)


class _OverTree(RendezvousHandler):
    """The endpoint is the group's directory on this node; `job` says of whom."""

    def __init__(self, params: RendezvousParameters) -> None:
        self._directory, self._nodes = Path(params.endpoint), params.max_nodes
        self._job, self._run = str(params.get("job")), params.run_id
        self._line: socket.socket | None = None
        self._turn = Meet(self._job, self._nodes, "", "", 0)
        self._store: TCPStore | None = None
        self._looked = 0.0

    def get_backend(self) -> str:
        return NAME

    def get_run_id(self) -> str:
        return self._run

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        """Nodes come and go as their rounds do."""

    def shutdown(self) -> bool:
        self._store = None
        self._hang_up()
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait for the others; it is this node's round that ends the waiting, by killing the runner's processes."""
        self._store = None  # of a life that is over; its port goes with it
        while True:
            own = self._ask(Meet(self._job, self._nodes, "", "", 0))
            if not own.address:
                _wait(POLL_S)
                continue
            with socket.create_server((own.address, 0)) as listener:
                port = listener.getsockname()[1]
                self._turn = Meet(self._job, self._nodes, os.urandom(8).hex(), own.address, port)
                while not (met := self._ask(self._turn)).generation:
                    _wait(POLL_S)
                first = met.rank == 0
                with contextlib.suppress(DistError):  # somebody is gone again: all come once more
                    self._store = store = TCPStore(
                        met.address, met.port, is_master=first, wait_for_workers=False, timeout=TOGETHER,
                        master_listen_fd=listener.detach() if first else None,
                    )  # fmt: skip
                    store.set(f"here/{met.rank}", "yes")
                    store.wait([f"here/{rank}" for rank in range(self._nodes)])
                    return RendezvousInfo(
                        self._store, met.rank, self._nodes, RendezvousStoreInfo(met.address, met.port)
                    )

    def num_nodes_waiting(self) -> int:
        """Asked ten times a second."""
        now = time.monotonic()  # noqa: TID251 - an agent lives in real time
        if now - self._looked < LOOK_S:
            return 0
        self._looked = now
        return self._ask(self._turn).waiting

    def _ask(self, word: Meet) -> Met:
        """What the node says, or that nobody is here."""
        try:
            if self._line is None:
                self._line = self._connected()
            self._line.sendall(msgspec.json.encode(word) + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                more = self._line.recv(4096)
                if not more:
                    raise ConnectionResetError("the node hung up")
                answer += more
            return msgspec.json.decode(answer, type=Met)
        except OSError:
            self._hang_up()
            return Met()

    def _connected(self) -> socket.socket:
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            line.connect(near(descriptor, DOOR))
        except OSError:
            line.close()
            raise
        finally:
            os.close(descriptor)
        return line

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


def _wait(seconds: float) -> None:
    threading.Event().wait(seconds)
