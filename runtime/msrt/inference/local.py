"""An engine inside a master: one more worker of its dispatcher, without a link between.

It shows what `Requests` needs of a worker (`node`, `limit`, `send`) and answers through `heard`. A call that takes over
a millisecond goes to a thread: the loop belongs to everybody. onnxruntime is imported by the first assignment that
names a model; a master that runs none stays small.
"""

from __future__ import annotations

import asyncio
import importlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog

from msrt import errors
from msrt.links.link import Buffer
from msrt.protocol.messages import Infer, InferCancel, InferFailed, Inferred, Message, ModelState, Placement
from msrt.world.world import World

if TYPE_CHECKING:
    from msrt.inference.keeper import Keeper
    from msrt.inference.slots import Slots

__all__ = ["LocalEngine"]

log = structlog.get_logger()
INLINE_US: Final = 1000
LIMIT: Final = 8 << 20
"""Bytes that may ride together: no link bounds them."""
WAITING: Final = 256

Heard = Callable[[Inferred | InferFailed, list[Buffer]], None]


class LocalEngine:
    """`heard` gets the answers, in a turn of the loop of their own; `changed` is called when what is loaded changed."""

    limit = LIMIT

    def __init__(
        self,
        world: World,
        node: str,
        name: str,
        *,
        fetch: Callable[[str], Awaitable[bytes]],
        verify: Callable[[bytes, bytes], None],
        heard: Heard,
        changed: Callable[[], None],
        threads: int = 1,
    ) -> None:
        self.node, self.name = node, name
        self._world, self._fetch, self._verify, self._threads = world, fetch, verify, threads
        self._heard, self._changed = heard, changed
        self._wanted: tuple[int, tuple[Placement, ...]] = (0, ())
        self._needed = asyncio.Event()
        self._keeper: Keeper | None = None
        self._slots: Slots | None = None
        self._waiting: deque[tuple[Infer, Sequence[Buffer], float]] = deque()
        self._cancelled: set[int] = set()
        self._work = asyncio.Event()

    # --- what it holds -----------------------------------------------------------------------------------------

    def assign(self, placements: tuple[Placement, ...]) -> None:
        """Hold these and no others."""
        if placements == self._wanted[1]:
            return
        self._wanted = self._wanted[0] + 1, placements
        if self._keeper is not None:
            self._keeper.assign(*self._wanted)
        elif placements:
            self._needed.set()

    @property
    def models(self) -> tuple[ModelState, ...]:
        """What is loaded, and how it fares."""
        return self._slots.reports() if self._slots is not None else ()

    async def run(self) -> None:
        """Until cancelled. Raises ImportError where onnxruntime is missing, when the first model comes."""
        await self._needed.wait()
        parts: list[Any] = await self._world.offload(_parts)
        slots_module, keeper_module, engine_module = parts
        self._slots = slots_module.Slots()
        self._keeper = keeper_module.Keeper(
            self._world, self._slots, engine_module.Engine(threads=self._threads), fetch=self._fetch,
            verify=self._verify, changed=self._changed,
        )  # fmt: skip
        self._keeper.assign(*self._wanted)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keeper.run())
            group.create_task(self._slow())

    # --- as a worker -------------------------------------------------------------------------------------------

    def send(self, message: Message, frames: Sequence[Buffer] = ()) -> None:
        """What a dispatcher sends. Raises Overloaded."""
        if isinstance(message, InferCancel):
            if self._waiting:
                self._cancelled.update(message.ids)
        elif isinstance(message, Infer):
            self._received(message, frames)

    def _received(self, message: Infer, frames: Sequence[Buffer]) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self._slots is None:
                raise errors.NotFound(f"no model {message.model} here")
            slot = self._slots.borrow(message.model, message.version)
            self._slots.give_back(slot)
        except errors.MsrtError as error:
            loop.call_soon(self._heard, InferFailed(message.ids, error.code, error.text, error.hint), [])
            return
        slow = max(slot.latency_us.values(), default=0) * sum(message.rows) > INLINE_US
        if not slow and not self._waiting:
            loop.call_soon(self._quick, message, frames)
            return
        if len(self._waiting) >= WAITING:
            raise errors.Overloaded(f"{WAITING} batches wait for the engine of {self.name}")
        self._waiting.append((message, frames, self._world.now() + message.deadline_ms / 1000))
        self._work.set()

    def _quick(self, message: Infer, frames: Sequence[Buffer]) -> None:
        self._heard(*self._compute(message, frames))

    async def _slow(self) -> None:
        """One batch at a time, in a thread; what nobody waits for any more is not computed."""
        while True:
            await self._work.wait()
            while self._waiting:
                message, frames, deadline = self._waiting.popleft()
                if self._world.now() > deadline or self._cancelled.issuperset(message.ids):
                    continue
                self._heard(*await self._world.offload(self._compute, message, frames))
            self._cancelled.clear()
            self._work.clear()

    def _compute(self, message: Infer, frames: Sequence[Buffer]) -> tuple[Inferred | InferFailed, list[Buffer]]:
        from msrt.inference.answer import infer  # noqa: PLC0415 - numpy comes with the first model

        assert self._slots is not None
        try:
            return infer(self._slots, message, frames, device=self.name, now=self._world.now)
        except errors.MsrtError as error:
            return InferFailed(message.ids, error.code, error.text, error.hint), []


def _parts() -> list[Any]:
    """A third of a second of imports, in a thread."""
    return [importlib.import_module(f"msrt.inference.{name}") for name in ("slots", "keeper", "engine")]
