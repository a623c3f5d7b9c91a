"""Durable messages over whatever parent there is: an outbox on disk, sent in order, forgotten when acknowledged."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from msrt import errors
from msrt.hop.peer import Peer
from msrt.journal.commits import Commits
from msrt.journal.outbox import Outbox
from msrt.protocol import wire
from msrt.protocol.messages import Message
from msrt.world.world import World

__all__ = ["DurableSender"]

log = structlog.get_logger()
AHEAD = 256
"""Messages sent and not acknowledged; the rest waits on disk."""
LARGEST = wire.MQTT_LIMIT - 2 * wire.HEADER_ROOM
"""Bytes of one message that every link carries, for the next parent may speak another one."""


class DurableSender:
    """Drains one outbox to the present parent. `decode` turns an outbox record into its message.

    `commit`: where several outboxes share one store, what makes all of them durable.
    """

    def __init__(
        self,
        world: World,
        outbox: Outbox,
        decode: Callable[[bytes], Message],
        *,
        commit: Callable[[], None] | None = None,
    ) -> None:
        self._world, self.outbox, self._decode = world, outbox, decode
        self._commits = Commits(commit or outbox.commit, world.offload)
        self._peer: Peer | None = None
        self._sent: deque[int] = deque()
        """Outbox numbers on the way in this session, oldest first."""
        self._reached = 0
        self._forgetting: asyncio.Task[None] | None = None

    async def put(self, encode: Callable[[int], bytes]) -> int:
        """Queue a message, given its number; on disk on return. Raises FrameTooLarge (no link could carry it),
        Overloaded, DiskFull (it is kept in memory and goes to disk with a later commit)."""
        data = encode(self.outbox.next_seq)
        if len(data) > LARGEST:
            raise errors.FrameTooLarge(len(data), LARGEST, "durable message")
        seq = self.outbox.put(data)
        try:
            await self._commits.commit()
        finally:
            self.pump()
        return seq

    async def flush(self) -> None:
        """Everything queued is on disk on return. Raises DiskFull."""
        await self._commits.commit()
        self.pump()

    def attach(self, peer: Peer) -> None:
        """A session is live; what an earlier one did not get acknowledged is sent again."""
        if peer is not self._peer:
            self._peer, self._reached = peer, 0
            self._sent.clear()
            peer.on_acked = self._acked
        self.pump()

    def detach(self, peer: Peer) -> None:
        """The session is over for good (`Handler.left` with final=True)."""
        if peer is self._peer:
            self._peer = None
            self._sent.clear()

    def pump(self) -> None:
        """Send what is on disk and fits the window."""
        peer = self._peer
        while peer is not None and peer.live and len(self._sent) < AHEAD:
            batch = self.outbox.unacked(self._reached, AHEAD - len(self._sent))
            if not batch:
                return
            for seq, data in batch:
                try:
                    peer.send(self._decode(data))
                except (errors.Disconnected, errors.Overloaded):
                    return
                self._reached = seq
                self._sent.append(seq)

    def _acked(self, messages: tuple[Message, ...]) -> None:
        last = 0
        for _ in messages:
            last = self._sent.popleft()
        self.outbox.ack(last)
        self.pump()
        if self._forgetting is None:
            self._forgetting = asyncio.get_running_loop().create_task(self._forget())

    async def _forget(self) -> None:
        """Acknowledgements need not be on disk at once: what is sent again is dropped by its number."""
        try:
            await self._commits.commit()
        except errors.DiskFull as error:
            log.warning("outbox.acknowledgement_not_on_disk", error=error.text)
        finally:
            self._forgetting = None
