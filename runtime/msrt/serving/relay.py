"""A master that asks another master: requests of ours, answered over a link by somebody else's region or tier."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from msrt import errors
from msrt.buffers import Buffer
from msrt.dispatch.batching import split
from msrt.hop import Peer
from msrt.protocol.messages import Infer, InferCancel, InferFailed, Inferred
from msrt.serving.backend import InferAnswer, InferRequest
from msrt.telemetry.context import is_sampled
from msrt.telemetry.spans import CLIENT, Tracer

__all__ = ["Passed", "Relay"]


class Passed:
    """An answer from elsewhere, and what it cost there."""

    __slots__ = ("answer", "compute_s", "queue_s")

    def __init__(self, answer: InferAnswer, compute_s: float, queue_s: float) -> None:
        self.answer, self.compute_s, self.queue_s = answer, compute_s, queue_s


class Relay:
    """All that this node has asked of others. `now`: to say what is left."""

    def __init__(self, now: Callable[[], float], tracer: Tracer | None = None) -> None:
        self._now, self._tracer = now, tracer
        self._next = 1
        self._open: dict[int, tuple[Peer, asyncio.Future[Passed]]] = {}

    def __len__(self) -> int:
        return len(self._open)

    async def ask(self, peer: Peer, request: InferRequest, within_s: float, hops: int) -> Passed:
        """Raises what the other answers with, Disconnected, Overloaded, FrameTooLarge, DeadlineExceeded."""
        if self._tracer is None or not is_sampled(request.trace):
            return await self._ask(peer, request, within_s, hops)
        span = self._tracer.start("relay", request.trace, CLIENT)
        span.set(model=request.model, peer=peer.name, node=peer.node, hops=hops)
        code = "cancelled"
        try:
            passed = await self._ask(peer, msgspec.structs.replace(request, trace=span.trace), within_s, hops)
            code = ""
            return passed
        except errors.MsrtError as error:
            code = error.code
            raise
        finally:
            span.end(error=code)

    async def _ask(self, peer: Peer, request: InferRequest, within_s: float, hops: int) -> Passed:
        ident, self._next = self._next, self._next + 1
        future: asyncio.Future[Passed] = asyncio.get_running_loop().create_future()
        rows = request.inputs[0].shape[0] if request.inputs and request.inputs[0].shape else 1
        peer.send(
            Infer(
                (ident,), (rows,), request.model, request.inputs, request.version,
                max(1, int(within_s * 1000)), request.outputs, request.trace, request.priority, hops=hops,
                sequence=request.sequence, sequence_start=request.sequence_start, sequence_end=request.sequence_end,
            ),
            request.frames,
        )  # fmt: skip
        self._open[ident] = peer, future
        try:
            async with asyncio.timeout(within_s):
                return await future
        except (TimeoutError, asyncio.CancelledError) as error:
            with contextlib.suppress(errors.MsrtError):  # who is away computes nothing for us
                peer.send(InferCancel((ident,)))
            if isinstance(error, asyncio.CancelledError):
                raise
            raise errors.DeadlineExceeded(f"{peer.name} did not answer within {within_s:.3g} s") from None
        finally:
            del self._open[ident]

    def answered(self, peer: Peer, message: Inferred, frames: list[Buffer]) -> None:
        """Somebody answered some of ours, perhaps several in one message; what nobody waits for is dropped."""
        futures = self._take(peer, message.ids)
        if not any(futures):
            return
        single = len(message.ids) == 1
        parts = [(message.outputs, frames)] if single else split(message.outputs, frames, message.rows)
        if parts is None or len(parts) != len(futures):
            self._fail(futures, errors.MalformedFrame(f"{peer.name} answered with rows that do not add up"))
            return
        for future, (outputs, own) in zip(futures, parts, strict=True):
            if future is not None:
                answer = InferAnswer(message.version, message.variant, message.device, outputs, own, message.marks)
                future.set_result(Passed(answer, message.compute_us / 1e6, message.queue_us / 1e6))

    def failed(self, peer: Peer, message: InferFailed) -> None:
        """Somebody could not."""
        error = errors.from_wire(message.code, message.text, message.hint)
        if isinstance(error, errors.Overloaded) and message.retry_after_ms:
            error.retry_after = message.retry_after_ms / 1000
        self._fail(self._take(peer, message.ids), error)

    @staticmethod
    def _fail(futures: list[asyncio.Future[Passed] | None], error: errors.MsrtError) -> None:
        for future in futures:
            if future is not None:
                future.set_exception(error)

    def gone(self, peer: Peer) -> None:
        """That one is away: nothing will come of what was asked of it."""
        for asked, future in list(self._open.values()):
            if asked is peer and not future.done():
                future.set_exception(errors.Disconnected(f"{peer.name} went away"))

    def _take(self, peer: Peer, ids: tuple[int, ...]) -> list[asyncio.Future[Passed] | None]:
        """Who waits for each of these; None where nobody does, or another was asked."""
        found = [self._open.get(ident) for ident in ids]
        return [one[1] if one is not None and one[0] is peer and not one[1].done() else None for one in found]
