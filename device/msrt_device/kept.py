"""What a device keeps of an update until it is counted, and which rounds may still count it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from msrt.buffers import Buffer
from msrt.protocol.messages import RoundClosed, RoundOpen, UpdateMeta

__all__ = ["Kept", "counts", "key_of", "late", "length_of", "over", "sha256"]


class Kept(msgspec.Struct, frozen=True):
    """An update on disk."""

    meta: UpdateMeta
    payload: bytes = b""
    """Itself, where it is small or the disk took no artifact."""
    digest: str = ""
    """Of the artifact that it is."""
    size: int = 0
    lost: bool = False
    """A power failure took the artifact: it is trained again, with the stamp it had, as an edge may have added it."""
    file: str = ""
    """Its name, where it is a file (see `updates`)."""
    checksum: str = ""


def key_of(job: str, round_: int, step: int) -> str:
    """Of an update in the store."""
    return f"update/{job}/{round_:08d}.{step}"


def length_of(payload: Buffer | Path) -> int:
    return payload.stat().st_size if isinstance(payload, Path) else len(payload)


def counts(meta: UpdateMeta, opened: RoundOpen) -> bool:
    """May this update be in that round?"""
    if meta.round == opened.round:
        return meta.step == opened.plan.step
    return 0 < opened.plan.since <= meta.round < opened.round


def late(round_: int, closed: RoundClosed) -> bool:
    """May an update of this round, which is over, still count?"""
    return 0 < closed.since <= round_


def over(meta: UpdateMeta, closed: RoundClosed, me: str) -> bool:
    """Was this update counted, or will it never be?"""
    if meta.job != closed.job:
        return False
    if closed.state not in ("running", "paused"):
        return True
    if meta.round > closed.round:
        return False
    counted = (meta.round == closed.round and me in closed.included) or meta.round <= closed.late.get(me, 0)
    return counted or not late(meta.round, closed)


def sha256(data: Buffer) -> str:
    import hashlib  # noqa: PLC0415 - only here

    return hashlib.sha256(data).hexdigest()
