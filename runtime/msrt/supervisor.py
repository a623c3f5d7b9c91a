"""What systemd hears of a process: that it lives (its watchdog), and what it does. Silent where no supervisor listens.

The protocol of sd_notify(3): one datagram a message to the socket that NOTIFY_SOCKET names.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping

__all__ = ["Supervisor"]


class Supervisor:
    """Of one process. `watch` says at a quarter of the watchdog's time that the event loop turns: nothing else can."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        ours = environment.get("WATCHDOG_PID", "") in {"", str(os.getpid())}
        micros = environment.get("WATCHDOG_USEC", "")
        self.pause_s = int(micros) / 4e6 if ours and micros.isdigit() and self._address else 0.0
        """Between two signs of life; 0: nobody waits for them."""
        self._timer: asyncio.TimerHandle | None = None

    def say(self, message: str) -> None:
        """Such as READY=1 or STATUS=...; one that cannot be delivered is dropped."""
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one,
        ):
            one.settimeout(0)
            one.sendto(message.encode(), self._address)

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on until `close`."""
        if self.pause_s > 0:
            self.say("WATCHDOG=1")
            self._timer = loop.call_later(self.pause_s, self.watch, loop)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
