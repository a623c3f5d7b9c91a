"""`Infer` messages as requests of their own: for those that take more steps than dispatch, a task each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop import Peer
from msrt.inference.signature import split_rows
from msrt.protocol.messages import Infer, InferCancel, InferFailed, Inferred
from msrt.serving.backend import InferAnswer, InferRequest

__all__ = ["Asked"]

log = structlog.get_logger()
MOST = 4096
"""Requests at work at a time; more are refused."""


class Asked:
    """Answers peers through `infer(request, asker)`; `asker` is the peer's node id."""

    def __init__(self, infer: Callable[[InferRequest, str], Awaitable[InferAnswer]]) -> None:
        self._infer = infer
        self._tasks: dict[Peer, dict[int, asyncio.Task[None]]] = {}
        self._count = 0

    def received(self, peer: Peer, message: Infer, frames: list[Buffer]) -> None:
        """Requests of one message; each is answered by itself. A repeated one is the same one."""
        try:
            if len(message.rows) != len(message.ids) or not message.ids:
                raise errors.InvalidTensor(f"{len(message.ids)} requests with the rows of {len(message.rows)}")
            if self._count + len(message.ids) > MOST:
                raise errors.Overloaded(f"{self._count} requests are at work")
            parts = split_rows(message.inputs, frames, message.rows)
        except errors.MsrtError as error:
            self._refuse(peer, message.ids, error)
            return
        mine = self._tasks.setdefault(peer, {})
        for ident, rows, (inputs, own) in zip(message.ids, message.rows, parts, strict=True):
            if ident in mine:
                continue
            request = InferRequest(
                message.model, inputs, tuple(own), message.deadline_ms / 1000, message.version, message.outputs,
                message.trace, message.priority, message.sequence, message.sequence_start, message.sequence_end,
                message.hops,
            )  # fmt: skip
            mine[ident] = asyncio.get_running_loop().create_task(self._answer(peer, ident, rows, request))
            self._count += 1
            mine[ident].add_done_callback(partial(self._done, peer, ident))

    def cancelled(self, peer: Peer, message: InferCancel) -> None:
        """Nobody waits for these any more."""
        mine = self._tasks.get(peer, {})
        for ident in message.ids:
            if ident in mine:
                mine[ident].cancel()

    def gone(self, peer: Peer) -> None:
        """Its session is over."""
        for task in list(self._tasks.pop(peer, {}).values()):
            task.cancel()

    def _done(self, peer: Peer, ident: int, task: asyncio.Task[None]) -> None:
        self._count -= 1
        mine = self._tasks.get(peer)
        if mine is not None and mine.get(ident) is task:
            del mine[ident]
            if not mine:
                del self._tasks[peer]
        if not task.cancelled() and task.exception() is not None:
            log.error("infer.failed", peer=peer.node, error=repr(task.exception()))

    async def _answer(self, peer: Peer, ident: int, rows: int, request: InferRequest) -> None:
        try:
            async with asyncio.timeout(request.timeout_s):
                answer = await self._infer(request, peer.node)
        except TimeoutError:
            self._refuse(peer, (ident,), errors.DeadlineExceeded("nobody answered in time"))
            return
        except errors.MsrtError as error:
            self._refuse(peer, (ident,), error)
            return
        message = Inferred(
            (ident,), (rows,), request.model, answer.version, answer.variant, answer.device, answer.outputs,
            marks=dict(answer.marks),
        )  # fmt: skip
        try:
            peer.send(message, answer.frames if isinstance(answer.frames, list) else list(answer.frames))
        except (errors.Disconnected, errors.Overloaded):
            return
        except errors.MsrtError as error:
            self._refuse(peer, (ident,), error)

    @staticmethod
    def _refuse(peer: Peer, ids: tuple[int, ...], error: errors.MsrtError) -> None:
        wait = int(getattr(error, "retry_after", 0) * 1000)
        with contextlib.suppress(errors.Disconnected, errors.Overloaded):
            peer.send(InferFailed(ids, error.code, error.text, error.hint, wait))
