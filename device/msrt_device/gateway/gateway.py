"""The node: a device while its board is there.

start: find the board, greet it. run: be a worker whose engine it is. When it is lost, say goodbye, so that the edge
takes its work back, and look for it again; when it is back, be that worker again, and hand it its model.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import msgspec
import structlog

from msrt import errors
from msrt.inference.bundle import MCU
from msrt.settings import GatewayConfig
from msrt.world.world import World
from msrt_device.gateway.board import Board
from msrt_device.gateway.counts import Counts
from msrt_device.gateway.engine import BoardEngine, OneModel
from msrt_device.gateway.findings import Findings
from msrt_device.gateway.line import open_line, parse_serial
from msrt_device.worker import Device, DeviceSetup

__all__ = ["Gateway"]

log = structlog.get_logger()
FIRST_PAUSE_S: Final = 0.2
GOODBYE_S: Final = 3.0


class Gateway:
    """`setup` is a device's, less its engine: that is the board."""

    def __init__(self, world: World, setup: DeviceSetup, config: GatewayConfig) -> None:
        self.world, self.setup, self.config = world, setup, config
        self.ready = asyncio.Event()
        self.counts = Counts()
        self.device: Device | None = None
        """While the board is there."""
        self.decommissioned = False
        """The cloud has ordered that everything here is wiped; the board has forgotten its model."""
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Until closed or cancelled, with or without the board."""
        pause = FIRST_PAUSE_S
        while not self._stopped.is_set():
            try:
                board = await self._found()
            except (errors.Disconnected, errors.PeerError) as error:
                log.warning("gateway.no_board", error=error.text, again_in_s=round(pause, 1))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._stopped.wait()
                pause = min(2 * pause, self.config.reconnect_max_s)
                continue
            pause = FIRST_PAUSE_S
            await self._serve(board)

    def close(self) -> None:
        """Say goodbye; `run` returns."""
        self._stopped.set()
        if self.device is not None:
            self.device.close()

    async def _found(self) -> Board:
        """A board that answered. Raises Disconnected, PeerError, InvalidConfig."""
        config = self.config
        baud = parse_serial(config.serial)[1] if config.serial else 0
        board = Board(self.world, lease_s=config.board_lease_s, sense_ms=config.sense_ms, baud=baud, counts=self.counts)
        line = await open_line(config.serial, config.tcp, board.heard, board.ended)
        try:
            hello = await board.start(line)
        except BaseException:
            board.close()
            line.close()
            raise
        log.info("gateway.board", serial=hello.serial, board=hello.board, firmware=hello.firmware, flash=hello.flash)
        return board

    async def _serve(self, board: Board) -> None:
        engine = BoardEngine(board)
        hello = board.hello
        labels = {"board": hello.board, "serial": hello.serial, **self.setup.config.labels}
        config = msgspec.structs.replace(self.setup.config, labels=labels)
        setup = replace(
            self.setup, config=config, device_class=MCU, serial=hello.serial, engine=engine, budget=OneModel(),
            tell=self._telling(board),
        )  # fmt: skip
        device = self.device = Device(self.world, setup)
        findings = Findings(self.world, device, board, engine)
        board.on_event(findings.heard)
        running = asyncio.ensure_future(device.run())
        sides = [
            asyncio.ensure_future(work) for work in (board.lost.wait(), findings.run(), self._say_ready(device))
        ]  # fmt: skip
        try:
            await asyncio.wait({running, sides[0]}, return_when=asyncio.FIRST_COMPLETED)
            if board.lost.is_set():
                self.counts.cut += 1
                log.warning("gateway.board_lost", serial=hello.serial, why=board.why)
            device.close()
            await asyncio.wait({running}, timeout=GOODBYE_S)
            if device.decommissioned:
                await self._decommission(board)
        finally:
            self.device = None
            board.close()
            running.cancel()
            for side in sides:
                side.cancel()
            await asyncio.gather(running, *sides, return_exceptions=True)
        if not running.cancelled() and (error := running.exception()) is not None:
            raise error

    async def _decommission(self, board: Board) -> None:
        self.decommissioned = True
        self._stopped.set()
        with contextlib.suppress(errors.MsrtError):  # a board that is away has no identity to lose
            await board.forget()

    def _telling(self, board: Board) -> Callable[[str], Any]:
        """What `logs` and `diagnose` say: this process's, and what is known of the board."""

        def tell(what: str) -> Any:
            said = self.setup.tell(what)
            return {**said, "board": board.known()} if what == "diagnose" else said

        return tell

    async def _say_ready(self, device: Device) -> None:
        await device.ready.wait()
        self.ready.set()
