"""A master that asks another master: requests of ours, answered over a link by somebody else's region or tier."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from msrt import errors
from msrt.hop import Peer
from msrt.protocol.messages import Infer, InferCancel, InferFailed, Inferred
from msrt.serving.backend import Buffer, InferAnswer, InferRequest

__all__ = ["Passed", "Relay"]


class Passed:
    """An answer from elsewhere, and what it cost there."""

    __slots__ = ("answer", "compute_s", "queue_s")

    def __init__(self, answer: InferAnswer, compute_s: float, queue_s: float) -> None:
        self.answer, self.compute_s, self.queue_s = answer, compute_s, queue_s


class Relay:
    """All that this node has asked of others. `now`: to say what is left."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._next = 1
        self._open: dict[int, tuple[Peer, asyncio.Future[Passed]]] = {}

    def __len__(self) -> int:
        return len(self._open)

    async def ask(self, peer: Peer, request: InferRequest, within_s: float, hops: int) -> Passed:
        """Raises what the other answers with, Disconnected, Overloaded, FrameTooLarge, DeadlineExceeded."""
        ident, self._next = self._next, self._next + 1
        future: asyncio.Future[Passed] = asyncio.get_running_loop().create_future()
        rows = request.inputs[0].shape[0] if request.inputs and request.inputs[0].shape else 1
        peer.send(
            Infer(
                (ident,), (rows,), request.model, request.inputs, request.version,
                max(1, int(within_s * 1000)), request.outputs, request.trace, request.priority, hops=hops,
            ),
            request.frames,
        )  # fmt: skip
        self._open[ident] = peer, future
        try:
            async with asyncio.timeout(within_s):
                return await future
        except (TimeoutError, asyncio.CancelledError) as error:
            with contextlib.suppress(errors.MsrtError):
                peer.send(InferCancel((ident,)))
            if isinstance(error, asyncio.CancelledError):
                raise
            raise errors.DeadlineExceeded(f"{peer.name} did not answer within {within_s:.3g} s") from None
        finally:
            del self._open[ident]

    def answered(self, peer: Peer, message: Inferred, frames: list[Buffer]) -> None:
        """Somebody answered one of ours; what nobody waits for is dropped."""
        future = self._take(peer, message.ids)
        if future is not None:
            answer = InferAnswer(
                message.version, message.variant, message.device, message.outputs, frames, message.marks
            )
            future.set_result(Passed(answer, message.compute_us / 1e6, message.queue_us / 1e6))

    def failed(self, peer: Peer, message: InferFailed) -> None:
        """Somebody could not."""
        future = self._take(peer, message.ids)
        if future is None:
            return
        error = errors.from_wire(message.code, message.text, message.hint)
        if isinstance(error, errors.Overloaded) and message.retry_after_ms:
            error.retry_after = message.retry_after_ms / 1000
        future.set_exception(error)

    def gone(self, peer: Peer) -> None:
        """That one is away: nothing will come of what was asked of it."""
        for asked, future in list(self._open.values()):
            if asked is peer and not future.done():
                future.set_exception(errors.Disconnected(f"{peer.name} went away"))

    def _take(self, peer: Peer, ids: tuple[int, ...]) -> asyncio.Future[Passed] | None:
        found = self._open.get(ids[0]) if len(ids) == 1 else None
        return found[1] if found is not None and found[0] is peer and not found[1].done() else None
