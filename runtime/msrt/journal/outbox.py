"""Durable messages on their way out: on disk before they are sent, kept until the receiver has them on disk.

A sequence number is never used twice, over any restart, for it is the store's own offset. Only what is committed is
handed out for sending: a message that went out first and was lost in a crash would give its number to another one.
"""

from __future__ import annotations

import enum
from array import array
from collections.abc import Callable
from typing import Final

import msgspec

from msrt.errors import CallerError, DiskFull, Overloaded
from msrt.world.world import Store

__all__ = ["Outbox", "Overflow", "commit_all"]

STUCK_LIMIT: Final = 1 << 20
"""Bytes taken while the disk is full, before `put` says so."""
SHARE_LIMIT: Final = 4
"""One message may take this fraction of the bound."""


class Overflow(enum.Enum):
    """What happens to a message that does not fit."""

    DROP_OLDEST = enum.auto()
    """The oldest unacknowledged ones go, and are counted: right for events, where the newest tell most."""
    REFUSE = enum.auto()
    """`put` raises Overloaded: right for what must not be lost."""


class _Head(msgspec.Struct, frozen=True, array_like=True):
    acked: int = 0
    dropped: int = 0


class _Record(msgspec.Struct, frozen=True, array_like=True):
    wall: float
    data: bytes


class Outbox:
    """One queue to one receiver on `store`, under `name`. Bounded in bytes and, with `max_age_s`, in age.

    `put`, `ack` and `expire` touch memory, `commit` makes them durable (blocking: see `Commits`). Several queues on
    one store are committed with `commit_all`. Memory: 4 bytes per waiting message.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        bound_bytes: int,
        overflow: Overflow = Overflow.DROP_OLDEST,
        max_age_s: float = 0.0,
        wall: Callable[[], float] | None = None,
    ) -> None:
        if max_age_s and wall is None:
            raise CallerError("an outbox with a bound in age needs a clock")
        self._store, self._log, self._key = store, f"outbox/{name}", f"outbox/{name}"
        self._bound, self._overflow, self._max_age_s = bound_bytes, overflow, max_age_s
        self._wall = wall or (lambda: 0.0)
        found = dict(store.scan(self._key)).get(self._key)
        head = msgspec.msgpack.decode(found, type=_Head) if found else _Head()
        self.dropped = head.dropped
        """Messages given up by the bounds, ever."""
        self.size = 0
        """Bytes of messages not acknowledged."""
        self._acked = self._last = head.acked
        self._sizes = array("I")
        """Of the messages after `_acked`, in order, from `_start` on."""
        self._start = 0
        self._load()
        self._durable = self._last
        self._taken = 0
        """Bytes ever put; changed by `put` only, as `_committed` is by commits only, for they run in a thread."""
        self._committed = 0
        self.stuck = False
        """The last commit found the disk full."""

    def _load(self) -> None:
        after = self._acked
        while records := self._store.read(self._log, after, 256):
            for seq, record in records:
                self._sizes.extend([0] * (seq - self._last - 1))
                self._note(seq, len(record))
            after = records[-1][0]

    def _note(self, seq: int, size: int) -> None:
        self._sizes.append(size)
        self._last = seq
        self.size += size

    def __len__(self) -> int:
        """Messages not acknowledged."""
        return len(self._sizes) - self._start

    @property
    def next_seq(self) -> int:
        """The number that the next `put` gives, for a message that carries its own number inside."""
        return self._last + 1

    @property
    def last_durable(self) -> int:
        """Up to here messages may be sent."""
        return self._durable

    def put(self, data: bytes) -> int:
        """Queue a message; its number. Raises Overloaded (policy REFUSE, or larger than a quarter of the bound),
        DiskFull (the disk has been full for a while: count the message as lost, or keep it)."""
        record = msgspec.msgpack.encode(_Record(self._wall(), data))
        if len(record) > self._bound // SHARE_LIMIT:
            raise Overloaded(f"a message of {len(record)} bytes for an outbox of {self._bound}", hint="raise its bound")
        if self.stuck and self._taken - self._committed > STUCK_LIMIT:
            raise DiskFull("the disk is full and the outbox takes no more")
        if self.size + len(record) > self._bound:
            if self._overflow is Overflow.REFUSE:
                raise Overloaded(f"the outbox holds {self.size} bytes of {self._bound}")
            self._shed(self.size + len(record) - self._bound)
        seq = self._store.append(self._log, record)
        assert seq == self._last + 1, "an outbox's log has no gaps"
        self._note(seq, len(record))
        self._taken += len(record)
        return seq

    def _shed(self, excess: int) -> None:
        upto, freed = self._start, 0
        while freed < excess:
            freed += self._sizes[upto]
            upto += 1
        self.dropped += upto - self._start
        self._forget(upto - self._start)

    def ack(self, upto: int) -> int:
        """The receiver has everything up to here on disk; how many messages that were news. A number never given out
        is ignored."""
        news = min(upto, self._durable) - self._acked
        if news > 0:
            self._forget(news)
        return max(news, 0)

    def expire(self) -> int:
        """Give up messages that are too old; how many."""
        gone = 0
        oldest = self._wall() - self._max_age_s
        while self._max_age_s and (found := self._records(self._acked, 256)):
            old = [seq for seq, record in found if record.wall < oldest]
            if old:
                self.dropped += len(old)
                self._forget(old[-1] - self._acked)
                gone += len(old)
            if len(old) < len(found):
                break
        return gone

    def _forget(self, count: int) -> None:
        self.size -= sum(self._sizes[self._start : self._start + count])
        self._start += count
        self._acked += count
        if self._start > 1024 and self._start * 2 > len(self._sizes):
            self._sizes = self._sizes[self._start :]
            self._start = 0
        self._store.trim(self._log, self._acked)
        self._store.put(self._key, msgspec.msgpack.encode(_Head(self._acked, self.dropped)))

    def _records(self, after: int, limit: int) -> list[tuple[int, _Record]]:
        found = self._store.read(self._log, max(after, self._acked), limit)
        return [(seq, msgspec.msgpack.decode(record, type=_Record)) for seq, record in found]

    def unacked(self, after: int = 0, limit: int = 256) -> list[tuple[int, bytes]]:
        """Messages on disk that were not acknowledged, with a number above `after`, in order. Reads the disk."""
        return [(seq, record.data) for seq, record in self._records(after, limit) if seq <= self._durable]

    def commit(self) -> None:
        """Make the queue durable. Blocking. Raises DiskFull; a later one tries again."""
        commit_all(self._store, self)


def commit_all(store: Store, *outboxes: Outbox) -> None:
    """Commit a store that several queues share. Blocking. Raises DiskFull."""
    marks = [(box, box._last, box._taken) for box in outboxes]  # noqa: SLF001 - one room
    try:
        store.commit()
    except DiskFull:
        for box in outboxes:
            box.stuck = True
        raise
    for box, last, taken in marks:
        box._durable = max(last, box._durable)  # noqa: SLF001
        box._committed = taken  # noqa: SLF001
        box.stuck = False
