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
from msrt.buffers import Buffer
from msrt.protocol.messages import Infer, InferCancel, InferFailed, Inferred, Message, ModelState, Placement
from msrt.trust.tuf.claims import Vouch
from msrt.world.world import World

if TYPE_CHECKING:
    from msrt.inference.keeper import Keeper
    from msrt.inference.sequences import Sequences
    from msrt.inference.slots import Slots

__all__ = ["LocalEngine"]

log = structlog.get_logger()
INLINE_US: Final = 1000
LIMIT: Final = 8 << 20
"""Bytes that may ride together: no link bounds them."""
WAITING: Final = 256
SEQUENCES: Final = (1024, 64 << 20, 120.0, 30.0)
"""Number, bytes, idle and drain seconds, as a device's by default."""
DRAIN_S: Final = 2.0

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
        fetch: Callable[[str], Awaitable[Buffer]],
        vouch: Vouch,
        heard: Heard,
        changed: Callable[[], None],
        threads: int = 1,
    ) -> None:
        self.node, self.name = node, name
        self._world, self._fetch, self._vouch, self._threads = world, fetch, vouch, threads
        self._heard, self._changed = heard, changed
        self._wanted: tuple[int, tuple[Placement, ...]] = (0, ())
        self._needed = asyncio.Event()
        self._keeper: Keeper | None = None
        self._slots: Slots | None = None
        self._sequences: Sequences | None = None
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
        slots_module, keeper_module, engine_module, sequences_module = parts
        self._slots, self._sequences = slots_module.Slots(), sequences_module.Sequences(*SEQUENCES)
        self._keeper = keeper_module.Keeper(
            self._world, self._slots, engine_module.Engine(threads=self._threads), fetch=self._fetch,
            vouch=self._vouch, changed=self._changed,
        )  # fmt: skip
        self._keeper.assign(*self._wanted)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keeper.run())
            group.create_task(self._slow())
            group.create_task(self._drain())

    async def _drain(self) -> None:
        """Let replaced versions go when their sequences ended."""
        assert self._slots is not None
        assert self._sequences is not None
        while True:
            await asyncio.sleep(DRAIN_S)
            if self._sequences.drain(self._slots.leaving, self._world.now()) and self._keeper is not None:
                self._keeper.settle()

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
        slow = slot.keeps_state or max(slot.latency_us.values(), default=0) * sum(message.rows) > INLINE_US
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
                    if message.sequence and self._sequences is not None:
                        self._sequences.dropped(message.model, message.sequence, message.version)
                    continue
                self._heard(*await self._one(message, frames))
            self._cancelled.clear()
            self._work.clear()

    async def _one(self, message: Infer, frames: Sequence[Buffer]) -> tuple[Inferred | InferFailed, list[Buffer]]:
        """In a thread; a sequence's state is looked up and kept here, in the loop."""
        from msrt.inference.answer import answer  # noqa: PLC0415 - numpy comes with the first model

        slots, sequences, now = self._slots, self._sequences, self._world.now
        assert slots is not None
        assert sequences is not None
        try:
            slot = slots.borrow(message.model, message.version)
            try:
                step = sequences.begin(slot, message, now()) if slot.keeps_state else None
                found: tuple[Inferred, list[Buffer]] = await self._world.offload(
                    lambda: answer(slot, message, frames, device=self.name, now=now, step=step)
                )
                if step is not None:
                    sequences.finish(step, now())
            finally:
                slots.give_back(slot)
        except errors.MsrtError as error:
            return InferFailed(message.ids, error.code, error.text, error.hint), []
        return found

    def _compute(self, message: Infer, frames: Sequence[Buffer]) -> tuple[Inferred | InferFailed, list[Buffer]]:
        from msrt.inference.answer import infer  # noqa: PLC0415 - numpy comes with the first model

        assert self._slots is not None
        try:
            return infer(self._slots, message, frames, device=self.name, now=self._world.now)
        except errors.MsrtError as error:
            return InferFailed(message.ids, error.code, error.text, error.hint), []


def _parts() -> list[Any]:
    """A third of a second of imports, in a thread."""
    return [importlib.import_module(f"msrt.inference.{name}") for name in ("slots", "keeper", "engine", "sequences")]
