"""`msrt device pack-agent` and `msrt device supervise`."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

import click

from msrt.artifacts.images import Image, Kind
from msrt.artifacts.pieces import hash_file
from msrt.errors import CallerError
from msrt_device.updater import launcher
from msrt_device.updater.agent import AgentSlots
from msrt_device.updater.packing import pack_agent

__all__ = ["install", "pack", "supervise"]

COPY: Final = "launcher.py"


@click.command(name="pack-agent")
@click.option(
    "-o",
    "--output",
    "--out",
    "out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The image: a tar file.",
)
@click.option("--alone", is_flag=True, help="Only msrt itself, for machines that have the packages it needs.")
def pack(out: Path, *, alone: bool) -> None:
    """Make an agent's image of the msrt that is installed here.

    It is for `msrt update push OUT --kind agent`, and fits machines of this architecture and this version of Python.
    """
    size = pack_agent(out, alone=alone)
    click.echo(f"{out}: {size} bytes, for {os.uname().machine} with Python {sys.version_info[0]}.{sys.version_info[1]}")


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--root",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where its two slots are.",
)
@click.option(
    "--image", type=click.Path(exists=True, path_type=Path, dir_okay=False),
    help="The first agent (of `msrt device pack-agent`). Default: the msrt that is installed here.",
)  # fmt: skip
@click.option("--version", default="", help="The first agent's version. Default: that of the msrt installed here.")
@click.option("--install", "only", is_flag=True, help="Put the first agent and the launcher there, and end.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def supervise(root: Path, image: Path | None, version: str, arguments: tuple[str, ...], *, only: bool) -> None:
    """Run an agent that can be updated over the air.

    `msrt device supervise --root DIR -- device join INVITE`. The first time, an agent is installed into the first
    of two slots, and a launcher beside them that needs nothing of msrt. A service manager had better start that
    one, after --install: `python3 DIR/launcher.py DIR device join`.
    """
    root = root.absolute()
    install(root, image, version)
    if only:
        click.echo(f"{sys.executable} {root / COPY} {root} device join")
        return
    if not arguments:
        raise CallerError("nothing to run", hint="give it: -- device join INVITE")
    os.execv(sys.executable, [sys.executable, str(root / COPY), str(root), *arguments])  # noqa: S606 - ourselves


def install(root: Path, image: Path | None = None, version: str = "") -> None:
    """Have an agent in force and the launcher under `root`; an agent there stays. Raises InvalidImage, DiskFull."""
    root.mkdir(parents=True, exist_ok=True)
    if not launcher.committed(root):
        with tempfile.TemporaryDirectory() as folder:
            file = image or Path(folder) / "agent.tar"
            if image is None:
                pack_agent(file)
            digest, size = hash_file(file)
            slots = AgentSlots(root)
            with file.open("rb") as opened:
                described = Image(Kind.AGENT, version or _version(), digest, size)
                slots.write(described, lambda offset, count: os.pread(opened.fileno(), count, offset))
        launcher.point(root, slots.state().inactive)
    draft = root / f"{COPY}.new"
    shutil.copyfile(Path(launcher.__file__), draft)
    with draft.open("rb") as copied:
        os.fsync(copied.fileno())
    draft.replace(root / COPY)
    launcher.sync_folder(root)


def _version() -> str:
    from importlib.metadata import version  # noqa: PLC0415 - beside its use

    return version("msrt")
