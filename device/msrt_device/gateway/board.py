"""A microcontroller as its gateway sees it: one question at a time, asked until it is answered or the board is lost.

A lost board stays lost: who holds this lets it go, and looks for the board anew.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Final, TypeVar

import structlog

from msrt.errors import (
    Disconnected,
    InvalidAddress,
    InvalidModel,
    MalformedFrame,
    ModelFailed,
    MsrtError,
    PeerError,
    Unavailable,
    VersionMismatch,
)
from msrt.protocol import mcu
from msrt.protocol.address import check_serial
from msrt.world.world import World
from msrt_device.gateway.counts import Counts
from msrt_device.gateway.line import Line

__all__ = ["Board"]

log = structlog.get_logger()
AGAIN_S: Final = 0.5
"""After this time a question is asked again; a slow line gets time for the frame on top."""
GIVE_UP_S: Final = 6.0
"""A board that answers nothing for so long is lost."""
COMPUTE_S: Final = 60.0
"""An inference may take so long: the emulated board of a busy machine is slow."""

Answer = TypeVar("Answer", mcu.Hello, mcu.Done, mcu.Inferred)


class Board:
    """`lost` is set when nothing more can come of this."""

    def __init__(
        self, world: World, *, lease_s: float, sense_ms: int, baud: int = 0, counts: Counts | None = None
    ) -> None:
        """`baud`: of a serial line, so that its slowness is not taken for silence."""
        self._world, self._lease_s, self._sense_ms, self._baud = world, lease_s, sense_ms, baud
        self.counts: Final = counts or Counts()
        self._events: Callable[[mcu.Event], None] | None = None
        self.lost = asyncio.Event()
        self.why = ""
        self.holds = bytes(mcu.DIGEST)
        """SHA-256 of the model on it."""
        self._hello: mcu.Hello | None = None
        self._line: Line | None = None
        self._decoder = mcu.Decoder()
        self._turn = asyncio.Lock()
        self._sequence = world.random.getrandbits(8)
        self._waiting: asyncio.Future[mcu.McuMessage] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._epoch = 0

    @property
    def hello(self) -> mcu.Hello:
        """What it said of itself."""
        assert self._hello is not None
        return self._hello

    # --- life ----------------------------------------------------------------------------------------------------

    async def start(self, line: Line) -> mcu.Hello:
        """Greet it and give it a lease. Raises Disconnected, VersionMismatch, MalformedFrame."""
        self._line = line
        hello = await self._ask(mcu.Ask(), mcu.Hello)
        if hello.version != mcu.VERSION:
            raise VersionMismatch(f"the board speaks version {hello.version}, not {mcu.VERSION}", hint="flash it again")
        try:
            check_serial(hello.serial)
            check_serial(hello.board)
        except InvalidAddress as error:
            raise MalformedFrame(f"the board calls itself what nothing is called: {error.text}") from error
        self._hello, self.holds = hello, hello.digest
        await self._lease()
        self.counts.joined += 1
        self.counts.here = True
        self._renewing = asyncio.ensure_future(self._renew())
        return hello

    def close(self, why: str = "closed") -> None:
        """Nothing more is asked; who waits hears it."""
        if self.lost.is_set():
            return
        self.why = why
        self.lost.set()
        self.counts.here = False
        if self._renewing is not None:
            self._renewing.cancel()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Disconnected(f"the board is away: {why}"))
        if self._line is not None:
            self._line.close()

    def ended(self) -> None:
        """The line is gone."""
        self.close("its line ended")

    def heard(self, data: bytes) -> None:
        """Bytes of the line."""
        damaged = self._decoder.damaged
        frames = self._decoder.feed(data)
        self.counts.damaged += self._decoder.damaged - damaged
        self.counts.received += len(frames)
        for frame in frames:
            if isinstance(frame.message, mcu.Event):
                if self._events is not None:  # else it will be said again
                    self._events(frame.message)
            elif self._waiting is not None and frame.sequence == self._sequence and not self._waiting.done():
                self._waiting.set_result(frame.message)

    def on_event(self, heard: Callable[[mcu.Event], None]) -> None:
        """What the board finds by itself is handed to `heard`."""
        self._events = heard

    async def _renew(self) -> None:
        """Heartbeats: a board that does not take its lease is lost."""
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                await self._lease()
            except MsrtError as error:
                self.close(error.text)
                return

    async def _lease(self) -> None:
        """Raises Disconnected where it has started again: it has forgotten its model."""
        self._epoch += 1
        lease = mcu.Lease(self._epoch, round(self._lease_s * 1000), self._sense_ms)
        done = await self._ask(lease, mcu.Done)
        if done.value != self.hello.boot:
            raise Disconnected("it started again")

    # --- what it is asked ------------------------------------------------------------------------------------------

    async def load(self, blob: bytes, arena: int) -> bytes:
        """Hand a model over by chunks; its SHA-256. Raises InvalidModel, which says what there is no room for,
        Disconnected."""
        digest = hashlib.sha256(blob).digest()
        if self.holds == digest:
            return digest
        hello = self.hello
        if len(blob) > hello.flash or arena > hello.ram:
            raise InvalidModel(
                f"it needs {len(blob)} bytes of flash and {arena} of RAM, and {hello.board} {hello.serial} has "
                f"{hello.flash} and {hello.ram}"
            )  # fmt: skip
        self.holds = bytes(mcu.DIGEST)
        await self._ask(mcu.Load(len(blob), arena), mcu.Done)
        for offset in range(0, len(blob), mcu.CHUNK):
            chunk = blob[offset : offset + mcu.CHUNK]
            await self._ask(mcu.Chunk(offset, chunk), mcu.Done)
            self.counts.chunk_bytes += len(chunk)
        await self._ask(mcu.Finish(digest), mcu.Done)
        self.holds = digest
        log.info("board.model_loaded", serial=hello.serial, bytes=len(blob), arena=arena)
        return digest

    async def forget(self) -> None:
        """It has no model afterwards. Raises Disconnected."""
        self.holds = bytes(mcu.DIGEST)
        await self._ask(mcu.Load(0, 0), mcu.Done)

    def known(self) -> dict[str, object]:
        """What there is to say of it."""
        hello = self.hello
        return {
            "board": hello.board, "serial": hello.serial, "firmware": hello.firmware, "sensor": hello.sensor,
            "flash": hello.flash, "ram": hello.ram, "model": self.holds.hex() if any(self.holds) else "",
            "damaged_frames": self._decoder.damaged,
        }  # fmt: skip

    async def infer(self, tag: int, row: bytes) -> mcu.Inferred:
        """One row. Raises ModelFailed, Disconnected."""
        pieces = range(0, len(row), mcu.CHUNK)
        try:
            for offset in pieces[:-1]:
                await self._ask(mcu.Infer(tag, len(row), offset, row[offset : offset + mcu.CHUNK]), mcu.Done)
            last = mcu.Infer(tag, len(row), pieces[-1], row[pieces[-1] :])
            found = await self._ask(last, mcu.Inferred, give_up_s=COMPUTE_S)
        except MsrtError:
            self.counts.failed += 1
            raise
        self.counts.answered += 1
        return found

    def taken(self, event: mcu.Event) -> None:
        """An event is on disk: the board may forget it."""
        self._write(mcu.encode(mcu.Taken(event.number), event.number))

    async def _ask(self, question: mcu.McuMessage, answer: type[Answer], *, give_up_s: float = GIVE_UP_S) -> Answer:
        found = await self._answered(question, give_up_s)
        if isinstance(found, mcu.Failed) and found.code == mcu.Fault.NO_LEASE:
            await self._renewed()  # we were late, or it started again
            found = await self._answered(question, give_up_s)
        if isinstance(found, answer):
            return found
        if isinstance(found, mcu.Failed):
            raise await self._turned(found)
        raise PeerError(f"the board answered {type(question).__name__} with {type(found).__name__}")

    async def _answered(self, question: mcu.McuMessage, give_up_s: float) -> mcu.McuMessage:
        async with self._turn:
            return await self._answer(question, give_up_s)

    async def _renewed(self) -> None:
        """Raises Disconnected where it has forgotten all."""
        try:
            await self._lease()
        except Disconnected as error:
            self.close(error.text)
            raise

    async def _answer(self, question: mcu.McuMessage, give_up_s: float) -> mcu.McuMessage:
        if self.lost.is_set():
            raise Disconnected(f"the board is away: {self.why}")
        self._sequence = (self._sequence + 1) & 0xFF
        frame = mcu.encode(question, self._sequence)
        again = AGAIN_S + (20 * len(frame) / self._baud if self._baud else 0.0)
        end = self._world.now() + give_up_s
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            while True:
                self._write(frame)
                done, _ = await asyncio.wait({self._waiting}, timeout=min(again, max(0.0, end - self._world.now())))
                if done:
                    return self._waiting.result()
                if self._world.now() >= end:
                    self.close(f"no answer to {type(question).__name__} in {give_up_s:g} s")
                    raise Disconnected(f"the board is away: {self.why}")
                again = min(2 * again, 4.0)
                self.counts.again += 1
        finally:
            self._waiting = None

    async def _turned(self, failed: mcu.Failed) -> MsrtError:
        """Its refusal as an error. What says that it has forgotten something is held against its boot.

        Raises Disconnected.
        """
        if failed.code in (mcu.Fault.NO_LEASE, mcu.Fault.NO_MODEL, mcu.Fault.OUT_OF_ORDER):
            await self._renewed()
            self.holds = bytes(mcu.DIGEST)  # whatever it was: the next question hands the model over anew
            return Unavailable(f"the board lost the thread: {failed.text}")
        if failed.code in (mcu.Fault.NO_ROOM, mcu.Fault.NOT_A_MODEL):
            return InvalidModel(f"the board refused it: {failed.text}")
        return ModelFailed(f"the board failed: {failed.text}")

    def _write(self, frame: bytes) -> None:
        if self._line is not None and not self.lost.is_set():
            self.counts.sent += 1
            self._line.write(frame)
