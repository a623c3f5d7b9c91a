"""The journal, from master to replica."""

from __future__ import annotations

from msrt.protocol.messages.base import Session

__all__ = ["Follow", "FollowRefused", "JournalBlock"]


class Follow(Session, frozen=True, tag="follow"):
    """Replica to master: send me what comes after these positions."""

    log: str
    """Log id, empty for a new replica."""
    epoch: int
    scopes: dict[str, int]
    """Scope (global or a region) to the last offset held."""


class JournalBlock(Session, frozen=True, tag="journal.block"):
    """Signed entries of one scope; the payload is the frame beside it."""

    log: str
    epoch: int
    scope: str
    prev: int
    """Offset of the scope's last entry before this block."""
    first: int
    last: int
    signature: bytes


class FollowRefused(Session, frozen=True, tag="follow.refused"):
    """The replica is ahead of its master, or of another log: it stops and says so."""

    text: str
