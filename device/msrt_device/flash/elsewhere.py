"""`msrt device flash` to what is no medium: a machine over SSH, a board on a serial line."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from msrt.errors import CallerError
from msrt_device.flash.identity.flags import board_settings_of, settings_of
from msrt_device.flash.remote.host import SCHEME

if TYPE_CHECKING:
    from msrt_device.flash.report import Report

__all__ = ["flash_elsewhere"]

OF_MEDIA: Final = (
    "identity_only", "force_non_removable", "force_unknown_image", "no_resume", "bmap", "count", "boards", "manifest",
    "region", "hours",
)  # fmt: skip

MOST: Final = 64 << 20
"""Bytes of flash: no microcontroller that MicroPython runs on has more."""


def flash_elsewhere(source: str, target: str | None, given: Mapping[str, Any], *, as_json: bool) -> bool:
    """Whether TARGET is one of those; then it is done. Raises what they raise."""
    if target is None:
        return False
    over = _over_ssh if target.startswith(SCHEME) else _over_serial if _is_line(Path(target)) else None
    if over is None:
        return False
    from msrt_device.flash.report import report  # noqa: PLC0415 - --help stays quick

    for name in OF_MEDIA:
        if given[name]:
            flag = "csv" if name == "manifest" else name.replace("_", "-")
            raise click.UsageError(f"--{flag} is for a medium, which {target} is not")
    with report(as_json=as_json) as said:
        over(source, target, given, said)
    return True


def _is_line(path: Path) -> bool:
    """A terminal by its driver: opening it to ask would reset some boards."""
    try:
        found = path.stat()
        return stat.S_ISCHR(found.st_mode) and os.major(found.st_rdev) in _terminals()
    except OSError:
        return False


def _terminals() -> set[int]:
    """Major numbers of the kernel's terminal drivers: the third word of each line."""
    lines = Path("/proc/tty/drivers").read_text("ascii", "replace").splitlines()
    return {int(words[2]) for line in lines if len(words := line.split()) > 2 and words[2].isdigit()}


def _over_ssh(source: str, target: str, given: Mapping[str, Any], said: Report) -> None:
    from msrt_device.flash.remote.host import Host, Remote  # noqa: PLC0415 - --help stays quick
    from msrt_device.flash.remote.installing import install  # noqa: PLC0415

    settings = settings_of(given)
    if given["issue"] and (settings is None or not settings.name):
        raise click.UsageError("--issue takes --invite and --name")
    with Host(Remote.parse(target), given["ssh_config"]) as host:
        done = install(
            host, source, settings, said.progress, wait_s=given["wait"], pre_issued=given["issue"]
        )  # fmt: skip
    state = "its agent is ready" if done.ready else "it has no identity: give --invite, and it starts"
    said.result(
        f"{target}: msrt-device {done.version} installed and verified, {state}",
        target=target, version=done.version, size=done.size, identity=settings is not None, ready=done.ready,
        verified=True,
    )  # fmt: skip


def _over_serial(source: str, target: str, given: Mapping[str, Any], said: Report) -> None:
    from msrt_device.flash.serial.chip import write_chip  # noqa: PLC0415 - --help stays quick
    from msrt_device.flash.serial.files import put_files  # noqa: PLC0415
    from msrt_device.flash.serial.image import open_image, with_identity  # noqa: PLC0415

    if given["issue"]:
        raise click.UsageError("--issue is for a board that joins by itself: a microcontroller has a gateway")
    settings = board_settings_of(given)
    try:
        if (size := Path(source).stat().st_size) > MOST:
            raise CallerError(
                f"{source} has {size} bytes, more than a board on a serial line holds",
                hint="name a disk or a file, or an image of msrt device image micropython",
            )
        image = open_image(Path(source).read_bytes())
    except OSError as error:
        raise CallerError(f"cannot read {source}: {error.strerror}") from None
    if settings is not None:
        image = with_identity(image, settings)
    if image.flash:
        write_chip(target, image.flash, image.begins, said.progress)
        what, size = "flash", len(image.flash)
    else:
        name = put_files(target, image.files, said.progress)
        what, size = f"{len(image.files)} files of its {name}", sum(map(len, image.files.values()))
    said.result(
        f"{target}: {what} written and verified, {size} bytes",
        target=target, size=size, identity=settings is not None, verified=True,
    )  # fmt: skip
