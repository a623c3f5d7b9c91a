"""A pre-issued certificate: the claim is spent where the board is prepared, and the medium gets keys and certificate.

For boards whose first boot finds no master that could let them in. The keys were made on another machine, and lie on
the medium until the first boot has taken them over and wiped them there: a claim is the better way where it works.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Final

import structlog

from msrt.errors import CallerError, MalformedFrame
from msrt.joining import IDENTITY, Membership, join, new_member, take_in
from msrt.protocol import wire
from msrt.telemetry import logs
from msrt.trust.invite import Invite
from msrt.trust.private import write_private
from msrt_device.flash.identity.folder import IdentityFolder, IdentityUnusable
from msrt_device.flash.identity.settings import IdentitySettings

__all__ = ["ISSUED", "issue", "take_issued"]

MEMBERSHIP: Final = "membership.bin"
ISSUED: Final = (IDENTITY, MEMBERSHIP)
log = structlog.get_logger()


def issue(settings: IdentitySettings) -> dict[str, bytes]:
    """Spend the claim of these settings; the files for the medium, by name.

    Raises CallerError (no name, no claim), and what `msrt.joining.join` raises.
    """
    if not settings.invite or not settings.name:
        raise CallerError("a certificate is issued for a name and a claim", hint="give --name and --invite")
    logs.configure("console", "error")
    return asyncio.run(_issue(settings))


async def _issue(settings: IdentitySettings) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="msrt-issue-") as folder:
        world, identity = new_member(Path(folder))
        invite = Invite.parse(settings.invite, world.wall())
        membership = await join(world, identity, invite, settings.name, serial=settings.serial)
        return {IDENTITY: identity.to_bytes(), MEMBERSHIP: wire.pack(membership)}


def take_issued(state: Path, board: IdentityFolder) -> bool:
    """Take over what was issued for this board, and wipe it there: whether there was something. Blocking.

    A device that has an identity keeps it. A power cut at any moment is made up for by the next start: the files on the
    medium go last. Raises IdentityUnusable, Corrupt, DiskFull, StateUnusable.
    """
    keys, membership = (board.path / name for name in ISSUED)
    if not membership.is_file():
        return False
    if keys.is_file():
        mine = state / IDENTITY
        if mine.exists() and mine.read_bytes() != keys.read_bytes():
            log.warning("device.certificate_unused", reason="member already", reset="msrt device reset")
            return False
        try:
            found = wire.unpack(membership.read_bytes(), Membership)
        except (OSError, MalformedFrame) as error:
            raise IdentityUnusable(f"cannot use {membership}: {error}") from error
        write_private(mine, keys.read_bytes())
        take_in(state, found)
    for name in ISSUED:
        board.wipe(name)
    log.info("device.certificate_taken", folder=str(board.path))
    return True
