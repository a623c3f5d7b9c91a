"""`msrt device`: `join` is here, what a device at work does not need is loaded when it is called."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path
from typing import Any, Final

import click

from msrt.cli import node_options
from msrt.config import load, parse_sets
from msrt.errors import NotFound
from msrt.settings import DeviceConfig
from msrt.statedir import default_state

__all__ = ["device"]

ELSEWHERE: Final = {
    "gateway": "msrt_device.gateway.command:gateway",
    "targets": "msrt_device.flash.command:targets",
    "image": "msrt_device.flash.command:image",
    "flash": "msrt_device.flash.command:flash",
    "pack-agent": "msrt_device.updater.command:pack",
    "supervise": "msrt_device.updater.command:supervise",
    "reset": "msrt_device.wiping:reset",
}
"""Sub-command to MODULE:OBJECT: what a device at work does without."""


class _Device(click.Group):
    """Loads a sub-command when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *ELSEWHERE]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = ELSEWHERE[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=_Device)
def device() -> None:
    """Device workers: run models, read sensors, train on their data. And how a board becomes one."""


@device.command()
@click.argument("invite", required=False)
@click.option("--name", help="Its name in the tree. Default: the host's and a short id.")
@click.option("--link", type=click.Choice(["zmq", "mqtt"]), help="How it talks to its edge. Default: zmq.")
@click.option(
    "--metrics", metavar="HOST:PORT", help="Prometheus metrics; `off` for none. Default: a free loopback port."
)
@click.option(
    "--model-memory", type=click.IntRange(min=0), metavar="BYTES",
    help="For loaded models, estimated from their files. Default: half of the machine's memory.",
)  # fmt: skip
@click.option(
    "--identity", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Where the partition MSRTID is mounted: its identity.toml has the invite, name, labels and serial number. "
    "The invite is wiped there once it is spent.",
)  # fmt: skip
@node_options
def join(invite: str | None, identity: Path | None, config: Path | None, sets: tuple[str, ...], **flags: Any) -> None:
    """Join the tree with INVITE (of `msrt invite device`) and work.

    Later starts need none. Runs until SIGTERM or Ctrl-C, and prints `ready`. Sensors are described in its --config
    file.
    """
    from msrt.process import run  # noqa: PLC0415 - --help stays quick
    from msrt_device.flash.identity.folder import IdentityFolder  # noqa: PLC0415 - few devices have one

    folder = IdentityFolder(identity) if identity is not None else None
    given = parse_sets(sets) | {key: value for key, value in flags.items() if value is not None}
    try:
        board = folder.read() if folder is not None else None
    except NotFound as error:
        if not _was_here(load(config, DeviceConfig, given)):
            raise
        click.echo(f"msrt: {error.text}; goes on with what is in its state directory", err=True)
        folder = board = None
    settings = load(config, DeviceConfig, (board.as_settings() if board is not None else {}) | given)
    invite = invite or (board.invite if board is not None else "")

    async def main(stop: asyncio.Event) -> None:
        from msrt_device.field import serve  # noqa: PLC0415 - --help stays quick

        await serve(settings, invite, stop, folder)

    sys.exit(run(main, drain_s=settings.drain_s))


def _was_here(config: DeviceConfig) -> bool:
    """Whether its state directory knows what became of it: a member needs no identity, one decommissioned has none."""
    from msrt_device.wiping import decommissioned, member  # noqa: PLC0415 - --help stays quick

    folder = Path(config.state) if config.state else default_state("device")
    return member(folder) or decommissioned(folder)
