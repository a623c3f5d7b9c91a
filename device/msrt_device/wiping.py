"""Everything that a device holds is removed: a factory reset, or the cloud's order.

Of a device that the cloud had wiped a word stays, so that whoever starts it gives up; of a reset one nothing does.
The keys go first, overwritten with zeros: what is left without them is nobody's. (Flash memory may keep old blocks
where no program reaches; only erasing the whole medium is certain.) A wipe that was cut off goes on at the next start.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import click
import structlog

from msrt.errors import BadSignature, LocalError, MsrtError, NotFound, Revoked
from msrt.joining import IDENTITY
from msrt.process import StateDir, default_state
from msrt.statedir import GONE
from msrt.trust.identity import Purpose, verify
from msrt.trust.private import write_private
from msrt.world.files import sync_directory
from msrt_device.flash.identity.folder import IdentityFolder
from msrt_device.flash.identity.issued import ISSUED
from msrt_device.flash.identity.settings import IDENTITY_FILE
from msrt_device.updater import launcher

__all__ = ["Decommissioned", "begun", "decommission", "decommissioned", "member", "ordered", "reset", "wipe"]

log = structlog.get_logger()
MARK: Final = "wiping"
MEMBER: Final = "node.sqlite"
"""There from the first join on."""
LAST: Final = ("owner.json", "lock")
"""They keep the directory ours to the end; the lock stays, as it is held."""


class Decommissioned(LocalError):
    """The cloud had this device wiped: there is nothing to start again for, until it is given a new invite."""

    code = "decommissioned"
    hint = "to enrol it anew give it an invite (msrt invite device), or wipe it for another owner (msrt device reset)"
    exit_status = launcher.GONE


def begun(state: Path) -> bool:
    """Whether a wipe was cut off here."""
    return (state / MARK).exists()


def ordered(error: MsrtError, cloud: bytes, node: str) -> bool:
    """Whether who sends us away hands on an order to wipe: an edge cannot give one, the cloud's signature decides."""
    if not isinstance(error, Revoked) or not error.order:
        return False
    try:
        verify(cloud, node.encode(), error.order, Purpose.WIPE)
    except BadSignature as fault:
        log.warning("device.wipe_not_ordered", error=fault.text)
        return False
    log.warning("device.decommissioned")
    return True


def decommission(state: Path, board: IdentityFolder | None = None) -> None:
    """Wipe, and leave a word of it for the next start. Raises what `wipe` raises."""
    write_private(state / GONE, b"")
    wipe(state, board)


def member(state: Path) -> bool:
    """Whether a device of this directory has joined, and nobody has wiped it since."""
    return (state / MEMBER).exists()


def decommissioned(state: Path) -> bool:
    """Whether the cloud had this directory wiped, and nobody has enrolled the device since."""
    return (state / GONE).exists()


def wipe(state: Path, board: IdentityFolder | None = None) -> None:
    """Empty a state directory that the caller holds, and the board's identity partition of its identity.

    Raises DiskFull, StateUnusable, IdentityUnusable.
    """
    write_private(state / MARK, b"")
    for name in (IDENTITY_FILE, *ISSUED) if board is not None else ():
        assert board is not None
        board.wipe(name)
    for secret in (state / IDENTITY, *sorted(state.glob(f"{MEMBER}*"))):
        _zero(secret)
    for entry in sorted(state.iterdir()):
        if entry.name not in (MARK, GONE, *LAST):
            _remove(entry)
    sync_directory(state)
    for name in (LAST[0], MARK):
        (state / name).unlink(missing_ok=True)
    sync_directory(state)


@click.command()
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Default: $XDG_STATE_HOME/msrt/device.",
)
@click.option(
    "--identity", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Where MSRTID is mounted: its identity is wiped, too.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(state: Path | None, identity: Path | None, *, yes: bool) -> None:
    """Factory reset: wipe the device's keys, models, data and state. It joins again only with a new invite."""
    folder = (state or default_state("device")).absolute()
    if not folder.is_dir():
        raise NotFound(f"there is no state directory {folder}", hint="name it with --state")
    if not yes:
        click.confirm(f"All that the device in {folder} holds will be lost. Go on?", abort=True)
    with StateDir.open(folder, "device"):
        wipe(folder, IdentityFolder(identity) if identity is not None else None)
        (folder / GONE).unlink(missing_ok=True)
    click.echo(f"{folder} is wiped")


def _zero(path: Path) -> None:
    if path.is_file():
        with path.open("r+b", buffering=0) as file:
            file.write(bytes(path.stat().st_size))
            os.fsync(file.fileno())
        path.unlink()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
