"""Many devices hear the same news, and the loop goes on meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from structlog.testing import capture_logs

from msrt import errors
from msrt.protocol.messages import Message, RoundClosed
from msrt_edge.broadcast import Broadcast
from msrt_edge.turns import AT_ONCE


@dataclass
class Device:
    """What a broadcast uses of a `Peer`."""

    node: str
    live: bool = True
    full: bool = False
    heard: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.node

    def send(self, message: Message, _frames: tuple[bytes, ...]) -> None:
        if self.full:
            raise errors.Overloaded("too much waits for it")
        assert isinstance(message, RoundClosed)
        self.heard.append(message.job)


def news(job):
    return lambda _peer: (RoundClosed(job, 1, ()), ())


def told(devices, job):
    return sum(job in device.heard for device in devices)


async def turn():
    """One of the loop's."""
    await asyncio.sleep(0)


def test_many_are_told_over_many_turns():
    """The first at once, the others a few in each turn."""

    async def scenario():
        devices, broadcast = [Device(str(n)) for n in range(3 * AT_ONCE)], Broadcast()
        broadcast.tell(devices, news("one"))
        seen = [told(devices, "one")]
        for _ in range(2):
            await turn()
            seen.append(told(devices, "one"))
        assert seen == [AT_ONCE, 2 * AT_ONCE, 3 * AT_ONCE]

    asyncio.run(scenario())


def test_news_come_in_the_order_in_which_they_were_said():
    """What is said while others wait for the news before comes after it, to every device."""

    async def scenario():
        devices, broadcast = [Device(str(n)) for n in range(2 * AT_ONCE)], Broadcast()
        broadcast.tell(devices, news("one"))
        broadcast.tell(devices[-1:], news("two"))
        while told(devices, "one") < len(devices) or not told(devices, "two"):
            await turn()
        assert devices[-1].heard == ["one", "two"]

    asyncio.run(scenario())


def test_one_that_cannot_be_told_keeps_nobody_waiting():
    """It is in the log; who has left meanwhile is not."""

    async def scenario():
        devices, broadcast = [Device("full", full=True), Device("gone", live=False), Device("last")], Broadcast()
        with capture_logs() as lines:
            broadcast.tell(devices, news("one"))
        assert [device.heard for device in devices] == [[], [], ["one"]]
        assert [(line["event"], line["device"]) for line in lines] == [("device.not_told", "full")]

    asyncio.run(scenario())


def test_what_is_no_longer_so_is_not_said():
    """The words are made when a device's turn comes."""

    async def scenario():
        devices, broadcast, over = [Device(str(n)) for n in range(AT_ONCE + 1)], Broadcast(), []
        broadcast.tell(devices, lambda peer: None if over else news("one")(peer))
        over.append(True)
        await turn()
        assert told(devices, "one") == AT_ONCE

    asyncio.run(scenario())
