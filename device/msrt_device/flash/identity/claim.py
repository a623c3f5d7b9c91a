"""When a board's claim may be wiped: after this device was let in with it, and not before.

A state directory remembers which claim it is spending, by its hash, before it does. So a device that dies between its
enrolment and the wiping wipes at its next start, and one that was given a new claim while it still is a member of its
tree does not throw away what it never used.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import structlog

from msrt.trust.private import read_private, write_private
from msrt_device.flash.identity.folder import IdentityFolder, IdentityUnusable

__all__ = ["remember_claim", "settle_claim"]

CLAIM: Final = "claim"
log = structlog.get_logger()


def remember_claim(state: Path, invite: str) -> None:
    """This invite is about to be spent. Raises DiskFull, StateUnusable."""
    write_private(state / CLAIM, _mark(invite))


def settle_claim(state: Path, board: IdentityFolder) -> None:
    """The device is a member: wipe the claim that made it one. A medium that cannot be written is only said."""
    invite = board.read().invite
    if not invite:
        return
    if read_private(state / CLAIM) != _mark(invite):
        log.warning("device.claim_unused", reason="member already", reset="msrt device reset")
        return
    try:
        board.spend()
    except IdentityUnusable as error:
        log.warning("device.claim_not_wiped", error=error.text)
    else:
        log.info("device.claim_wiped", folder=str(board.path))


def _mark(invite: str) -> bytes:
    return hashlib.sha256(b"msrt/claim/1\0" + invite.strip().encode()).hexdigest().encode()
