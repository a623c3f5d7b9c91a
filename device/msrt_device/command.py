"""`msrt device join`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from msrt.cli import node_options
from msrt.config import load, parse_sets
from msrt.settings import DeviceConfig

__all__ = ["device"]


@click.group()
def device() -> None:
    """Device workers: run models, read sensors, train on their data."""


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
@node_options
def join(invite: str | None, config: Path | None, sets: tuple[str, ...], **flags: str | int | None) -> None:
    """Join the tree with INVITE (of `msrt invite device`) and work; later starts need none.

    Runs until SIGTERM or Ctrl-C, and prints `ready`. Sensors are described in its --config file.
    """
    from msrt.process import run  # noqa: PLC0415 - --help stays quick

    settings = load(config, DeviceConfig, parse_sets(sets) | flags)

    async def main(stop: asyncio.Event) -> None:
        from msrt_device.field import serve  # noqa: PLC0415 - --help stays quick

        await serve(settings, invite or "", stop)

    sys.exit(run(main, drain_s=settings.drain_s))
