"""Starts the agent on a board: `board.json` beside this says who it is and how its gateway reaches it.

    {"serial": "...",                               default: the chip's unique id
     "link": "usb" | "uart:NUMBER@BAUD" | "tcp:PORT",
     "wifi": {"ssid": "...", "password": "..."},    for tcp
     "sensor": {"adc": PIN}}                        default: none

A board that hangs or fails is started again by its watchdog.
"""

import gc
import json
import os
import sys
import time

import machine
from msrt_agent import Agent
from msrt_lines import open_line

WATCHDOG_MS = 8000
FIRMWARE = "msrt micropython"


class Board:
    """What the agent runs on."""

    def __init__(self, settings: dict) -> None:
        self.serial = settings.get("serial") or machine.unique_id().hex()
        self.name = sys.implementation._machine[:64]  # noqa: SLF001 - where MicroPython keeps it
        self.firmware = FIRMWARE
        self.boot = int.from_bytes(os.urandom(4), "little")
        gc.collect()
        free = gc.mem_free()
        self.model_bytes, self.arena_bytes = free * 2 // 5, free // 5  # the rest is for objects
        self._line = open_line(settings)
        self._watchdog = machine.WDT(timeout=WATCHDOG_MS)
        self._up, self._seen = 0, time.ticks_ms()
        sensor = settings.get("sensor") or {}
        self._adc = machine.ADC(sensor["adc"]) if "adc" in sensor else None
        self.sensor = "" if self._adc is None else "adc %s" % sensor["adc"]

    def read(self) -> bytes:
        return self._line.read()

    def write(self, data: bytes) -> None:
        self._line.write(data)

    def millis(self) -> int:
        """Since the start; the chip's own count begins again after twelve days."""
        now = time.ticks_ms()
        self._up += time.ticks_diff(now, self._seen)
        self._seen = now
        return self._up

    def micros(self) -> int:
        return time.ticks_us()

    def sense(self, _reading: int, into: memoryview) -> None:
        """As many samples as the model takes, a millisecond apart; full scale is -128 to 127."""
        for at in range(len(into)):
            into[at] = (self._adc.read_u16() >> 8) - 128
            time.sleep_ms(1)

    def alive(self) -> None:
        self._watchdog.feed()


def main() -> None:
    """Until the power goes."""
    try:
        with open("/board.json") as file:  # noqa: PTH123 - MicroPython has no pathlib
            settings = json.load(file)
    except OSError:
        settings = {}
    board = Board(settings)
    agent = Agent(board)
    while True:
        data = board.read()
        if data:
            agent.heard(data)
        agent.step()
        if not data:
            time.sleep_ms(1)


main()
