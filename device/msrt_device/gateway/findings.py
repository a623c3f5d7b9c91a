"""What a board found by itself becomes a durable event of its gateway's node; only then the board may forget it."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import numpy as np
import structlog

from msrt import errors
from msrt.inference.bundle import MICRO
from msrt.inference.micro.blob import Blob
from msrt.inference.micro.host import from_board
from msrt.protocol import mcu, wire
from msrt.protocol.messages import Event
from msrt.world.world import World
from msrt_device.gateway.board import Board
from msrt_device.gateway.engine import BoardEngine
from msrt_device.worker import Device

__all__ = ["Findings"]

log = structlog.get_logger()
WAITING: Final = 64
"""The board keeps fewer, and says each again until it is taken."""


class Findings:
    """Of one board. `heard` takes what it says; `run` until cancelled."""

    def __init__(self, world: World, device: Device, board: Board, engine: BoardEngine) -> None:
        self._world, self._device, self._board, self._engine = world, device, board, engine
        self._queue: asyncio.Queue[mcu.Event] = asyncio.Queue(WAITING)
        self._last = 0
        """Number of the last one that is on disk: the board may say it again."""
        self._dropped = 0

    def heard(self, event: mcu.Event) -> None:
        if event.number <= self._last:
            self._board.taken(event)
        elif not self._queue.full():
            self._queue.put_nowait(event)

    async def run(self) -> None:
        while True:
            event = await self._queue.get()
            if event.number > self._last and await self._kept(event):
                self._last = event.number
            if event.number <= self._last:
                self._board.taken(event)

    async def _kept(self, event: mcu.Event) -> bool:
        """On disk, or about a model that nobody knows any more. False: it stays the board's."""
        if event.dropped > self._dropped:
            log.warning("board.events_dropped", serial=self._board.hello.serial, count=event.dropped - self._dropped)
            self._dropped = event.dropped
        blob, digest = self._engine.loaded.get(event.tag, (None, ""))
        slot = self._slot(digest)
        if blob is None or slot is None:
            log.warning("board.event_of_unknown_model", serial=self._board.hello.serial, number=event.number)
            return True
        model, version, labels = slot
        data = _said(event, blob, labels)
        certificate = self._device.certificate
        wall = self._world.wall()

        def encode(seq: int) -> bytes:
            return wire.pack(
                Event(
                    node=certificate.node, seq=seq, name=certificate.name, source=self._board.hello.sensor or "board",
                    model=model, version=version, wall=wall, data=data, region=certificate.region,
                )
            )  # fmt: skip

        try:
            await self._device.events.put(encode)
        except (errors.DiskFull, errors.Overloaded) as error:
            log.warning("board.event_not_kept", error=error.text)
            return False
        return True

    def _slot(self, digest: str) -> tuple[str, int, tuple[str, ...]] | None:
        """Model, version and class names of the blob."""
        for slot in self._device.slots.held():
            micro = slot.manifest.variants.get(MICRO) if slot.manifest is not None else None
            if slot.manifest is not None and micro is not None and micro.digest == digest:
                return slot.placement.model, slot.placement.version, slot.manifest.labels
        return None


def _said(event: mcu.Event, blob: Blob, labels: tuple[str, ...]) -> dict[str, Any]:
    """As a device's own sources say it."""
    index = event.best
    data: dict[str, Any] = {"label": labels[index] if index < len(labels) else index, "index": index}
    if len(event.data) == blob.output[1]:
        values = from_board(blob, np.frombuffer(event.data, np.int8).reshape(1, -1)).reshape(-1).astype(float)
        data |= {"score": float(values[index]), "values": [float(value) for value in values[:16]]}
    return {**data, "reading": event.reading, "uptime_ms": event.uptime_ms}
