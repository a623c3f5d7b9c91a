"""ModelStreamInfer: many requests on one call, each answered as soon as it can be.

One task reads, the call's own task writes, and a request in flight is a Future with a callback: none has a task of its
own. A caller who does not read its answers is not read from either, beyond `limit`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial

from msrt.errors import MsrtError, Unauthorized
from msrt.serving.backend import InferAnswer, InferRequest
from msrt.serving.grpc.codec import FINAL, Question, field
from msrt.serving.grpc.messages import ModelStreamInferResponse

__all__ = ["Stream"]

Ask = Callable[[bytes], Question]
Infer = Callable[[InferRequest], Awaitable[InferAnswer]]
Tell = Callable[[Question, InferAnswer], bytes]
_ANSWER = b"\x12"
"""Tag of ModelStreamInferResponse: field 2, of a length and bytes."""


class Stream:
    """One call. `read` gives None when the caller has said all; `ask` decodes, `infer` works, `tell` encodes."""

    def __init__(
        self,
        read: Callable[[], Awaitable[bytes | None]],
        write: Callable[[bytes], Awaitable[None]],
        ask: Ask,
        infer: Infer,
        tell: Tell,
        limit: int,
    ) -> None:
        self._read, self._write = read, write
        self._ask, self._infer, self._tell = ask, infer, tell
        self._limit = limit
        self._open: set[asyncio.Future[InferAnswer]] = set()
        self._answers: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._failure: BaseException | None = None
        self._reader: asyncio.Future[None] | None = None

    def stop(self) -> None:
        """Read no more: what is in flight is still answered."""
        if self._reader is not None:
            self._reader.cancel()

    async def run(self) -> None:
        """Until the caller has said all and everything is answered. Cancelled, it cancels what is in flight.

        Raises Unauthorized when the caller's key is no longer good.
        """
        self._reader = asyncio.ensure_future(self._read_all())
        self._reader.add_done_callback(lambda _: self._wake.set())
        try:
            while True:
                while self._answers:
                    await self._write(self._answers.popleft())
                    self._room.set()
                if self._failure is not None:
                    raise self._failure
                if self._reader.done() and not self._open and not self._answers:
                    break
                await self._wake.wait()
                self._wake.clear()
            if not self._reader.cancelled():
                self._reader.result()
        finally:
            self._reader.cancel()
            for future in self._open:
                future.cancel()

    async def _read_all(self) -> None:
        while (data := await self._read()) is not None:
            self._begin(data)
            while len(self._open) + len(self._answers) >= self._limit:
                self._room.clear()
                await self._room.wait()

    def _begin(self, data: bytes) -> None:
        ident = ""
        try:
            question = self._ask(data)
            ident = question.ident
            future = asyncio.ensure_future(self._infer(question.request))
        except Unauthorized as error:
            self._fail(error)
        except MsrtError as error:
            self._say(_failed(ident, error))
        else:
            self._open.add(future)
            future.add_done_callback(partial(self._settled, question))

    def _settled(self, question: Question, future: asyncio.Future[InferAnswer]) -> None:
        self._open.discard(future)
        try:
            answer = self._tell(question, future.result()) + FINAL
        except asyncio.CancelledError:
            self._wake.set()
        except MsrtError as error:
            self._say(_failed(question.ident, error))
        except Exception as error:  # noqa: BLE001 - a bug: it ends the call, and is seen there
            self._fail(error)
        else:
            self._say(b"".join(field(_ANSWER, answer)))

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._wake.set()

    def _say(self, answer: bytes) -> None:
        self._answers.append(answer)
        self._wake.set()


def _failed(ident: str, error: MsrtError) -> bytes:
    """A request's failure is said in its answer; the stream goes on."""
    message = ModelStreamInferResponse(error_message=str(error))
    message.infer_response.id = ident
    message.infer_response.parameters["triton_final_response"].bool_param = True
    data: bytes = message.SerializeToString()
    return data
