"""A device's part in jobs, rounds and parameter servers both: loaded with the first word of one.

Most devices serve and are never asked to train. The rooms of training take some MiB of memory, so they are imported,
off the event loop, when a job comes or when the disk has something of one; what is said meanwhile waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Final

import structlog

from msrt.artifacts import ArtifactStore, Fetch
from msrt.buffers import Buffer
from msrt.hop import Peer
from msrt.protocol.messages import (
    Pulled,
    RoundClosed,
    RoundOpen,
    SecureOut,
    SecureRoster,
    SecureShares,
    SecureUnmask,
    ShardsOpen,
)
from msrt.training.task import Node
from msrt.trust.tuf.claims import Vouch
from msrt.world.world import Store, World

if TYPE_CHECKING:
    from msrt.learning.secure_aggregation import Me
    from msrt.training.trainer import Trainer
    from msrt_device.parameters import Worker, Workers
    from msrt_device.personal import Personal
    from msrt_device.training import Training

__all__ = ["Jobs"]

log = structlog.get_logger()
Word = RoundOpen | RoundClosed | SecureRoster | SecureShares | SecureUnmask | SecureOut | ShardsOpen | Pulled
"""What an edge says of jobs."""
BEGINS: Final = (RoundOpen, ShardsOpen)
"""Without one of these before it, all else is about others."""
WAITING: Final = 256
"""Words that are kept while the rooms are loaded. An edge says again what it opened."""


class Jobs:
    """All jobs of one device. `training` and `workers` are None until there was one.

    `trainer` makes a job's by its name; `prepare` imports what that takes, and blocks. `who` is asked after it: this
    node as a task sees it, and as others see it in an exchange of keys. `clear` removes what is left of a job that is
    over, and blocks.
    """

    def __init__(
        self,
        world: World,
        who: Callable[[], tuple[Node, Me]],
        vouch: Vouch,
        *,
        trainer: Callable[[str], Trainer],
        prepare: Callable[[], None],
        clear: Callable[[str], None],
        artifacts: ArtifactStore,
        fetch: Fetch,
    ) -> None:
        self._world, self._who, self._vouch = world, who, vouch
        self._trainer, self._prepare, self._artifacts, self._fetch = trainer, prepare, artifacts, fetch
        self._clear, self._cleared = clear, set[str]()
        self._store: Final[Store] = world.disk.store("training")
        self._peer: Peer | None = None
        self._waiting: deque[tuple[Peer, Word, list[Buffer]]] = deque(maxlen=WAITING)
        self._loading = False
        self.training: Training | None = None
        self.workers: Workers | None = None
        self.personal: Personal | None = None
        self._turn = asyncio.Lock()
        self.paused = False

    @property
    def working(self) -> bool:
        """There is something to compute."""
        return self._loading or any(part is not None and part.working for part in (self.training, self.workers))

    async def recall(self) -> None:
        """What was not counted when this process's forerunner ended goes up again."""
        if self._store.scan():
            await self._load()

    def attach(self, peer: Peer) -> None:
        """An edge is here."""
        self._peer = peer
        for part in (self.training, self.workers):
            if part is not None:
                part.attach(peer)

    def detach(self) -> None:
        """The edge is away; what is computed goes on, and waits for another."""
        self._peer = None
        self._waiting.clear()
        for part in (self.training, self.workers):
            if part is not None:
                part.detach()

    def said(self, peer: Peer, word: Word, frames: list[Buffer]) -> None:
        """One word of the edge."""
        if isinstance(word, RoundClosed) and not self._loading:
            ending = self.workers.closed(word) if self.workers is not None else None
            peer.spawn(self._closed(word, ending))
        elif self.training is not None and self.workers is not None:
            _tell(self.training, self.workers, word, frames)
        elif self._loading or isinstance(word, BEGINS):
            self._waiting.append((peer, word, frames))
            if not self._loading:
                peer.spawn(self._begin())

    async def _closed(self, word: RoundClosed, ending: Worker | None) -> None:
        """A round, or a job: nothing is left of one that is over but what this node keeps to itself."""
        if self.training is not None:
            await self.training.closed(word)
        if word.state in ("running", "paused") or word.job in self._cleared:
            return
        if ending is not None:
            await ending.ended()
        await self._world.offload(self._clear, word.job)
        self._cleared.add(word.job)

    def pause(self, *, paused: bool) -> None:
        """Serving comes first: hold training, or let it go on."""
        self.paused = paused
        for part in (self.training, self.workers):
            if part is not None:
                part.pause(paused=paused)

    async def stop(self) -> None:
        """End every process; updates stay on disk."""
        for part in (self.training, self.workers):
            if part is not None:
                await part.stop()

    async def asked(self, method: str, params: dict[str, object]) -> object:
        """A question about this node's own models: see `personal`."""
        if self.personal is None:
            await self._load()
        assert self.personal is not None
        return await self.personal.asked(method, params)

    async def _begin(self) -> None:
        if self.training is None:
            await self._load()
        while self._waiting:
            self.said(*self._waiting.popleft())

    async def _load(self) -> None:
        async with self._turn:
            if self.training is None:
                await self._load_once()

    async def _load_once(self) -> None:
        self._loading = True
        try:
            await self._world.offload(_import, self._prepare)
        finally:
            self._loading = False
        from msrt_device.parameters import Workers  # noqa: PLC0415 - see above
        from msrt_device.personal import Personal  # noqa: PLC0415
        from msrt_device.training import Training  # noqa: PLC0415

        node, me = self._who()
        self.training = Training(
            self._world, self._store, node, self._vouch, trainer=self._trainer, artifacts=self._artifacts,
            fetch=self._fetch, me=me,
        )  # fmt: skip
        self.workers = Workers(
            self._world, node, self._vouch, trainer=self._trainer, artifacts=self._artifacts, fetch=self._fetch
        )
        self.personal = Personal(self._world, self._store, self._artifacts, self._fetch, self.training.lend)
        log.info("training.loaded")
        self.pause(paused=self.paused)
        if self._peer is not None:
            self.attach(self._peer)


def _import(prepare: Callable[[], None]) -> None:
    """Blocking."""
    for name in ("msrt_device.parameters", "msrt_device.personal", "msrt_device.training"):
        import_module(name)
    prepare()


def _tell(training: Training, workers: Workers, word: Word, frames: list[Buffer]) -> None:
    match word:
        case RoundOpen():
            training.opened(word, frames)
        case SecureRoster() | SecureShares() | SecureUnmask() | SecureOut():
            training.secure_said(word)
        case ShardsOpen():
            workers.opened(word)
        case Pulled():
            workers.pulled(word, frames)
