"""A conversation with a model that keeps state between requests. Its state is on one device and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence as Many
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from msrt import errors
from msrt.client.pin import Pin
from msrt.client.request import Answer, Ask
from msrt.client.waiters import One

if TYPE_CHECKING:
    from msrt.client.aio import AsyncClient

__all__ = ["Sequence"]

END_S: Final = 2.0
"""How long leaving may take."""


class Sequence:
    """Steps of one sequence, one after the other. Use it in an `async with`: leaving it lets the device forget it.

    A step that got no answer, of which nobody knows whether it was taken, ends the sequence, and so does the loss of
    its device or edge: from then on every step raises SequenceLost. Nothing is ever begun again behind your back. A
    step that was refused (InvalidTensor, Overloaded) leaves the sequence as it was.
    """

    def __init__(self, client: AsyncClient, ask: Ask, deadline: float | None) -> None:
        self.id = os.urandom(12).hex()
        """Unique among all callers."""
        self._client, self._deadline = client, deadline
        self._ask = ask._replace(sequence=self.id)
        self._pin = Pin(self.id)
        self._turn = asyncio.Lock()
        self._last: Any = None
        """The inputs of the last step that was answered."""
        self._ended = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        await self.end()

    @property
    def model(self) -> str:
        return self._ask.model

    @property
    def lost(self) -> errors.SequenceLost | None:
        """Why it cannot go on, None while it can."""
        return self._pin.lost

    async def infer(
        self, inputs: Any, *, end: bool = False, deadline: float | None = None, outputs: Many[str] | None = None
    ) -> Answer:
        """The next step; steps that are asked at once are taken in that order. end: it is the last one.

        Raises SequenceLost, and as AsyncClient.infer.
        """
        async with self._turn:
            if self._ended:
                raise errors.CallerError(f"the sequence {self.id!r} has ended", hint="begin another one")
            answer = await self._step(inputs, self._deadline if deadline is None else deadline, outputs, end=end)
            self._last, self._ended = inputs, end
            return answer

    async def _step(self, inputs: Any, deadline: float | None, outputs: Many[str] | None, *, end: bool) -> Answer:
        if self._pin.lost is not None:
            raise self._pin.lost
        client = self._client
        ask = self._ask._replace(sequence_start=self._pin.front is None, sequence_end=end)
        if outputs is not None:
            ask = ask._replace(outputs=tuple(outputs))
        waiter = One(asyncio.get_running_loop())
        client.submit(await client.requests(ask, [inputs], client.ends(deadline), waiter, pin=self._pin))
        try:
            return await waiter.future
        except asyncio.CancelledError:
            self._pin.lose("its last step was cancelled, and nobody knows whether it was taken")
            client.abandon(waiter)
            raise

    async def end(self) -> None:
        """Let the device forget it, as far as that is possible; a sequence that was left otherwise goes when it has
        been idle for long. The last inputs are said once more, marked as the end: the protocol has no other way."""
        async with self._turn:
            if not self._ended and self._pin.lost is None and self._pin.front is not None:
                with contextlib.suppress(errors.MsrtError):  # it goes when it has been idle for long
                    await self._step(self._last, END_S, None, end=True)
            self._ended = True
            self._pin.front = None
