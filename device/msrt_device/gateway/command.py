"""`msrt device gateway`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import click

from msrt.cli import node_options
from msrt.config import load, parse_sets
from msrt.settings import GatewayConfig

__all__ = ["gateway"]


@click.command()
@click.option("--serial", metavar="PATH[@BAUD]", help="The board's serial port, 115200 baud if not said.")
@click.option("--tcp", metavar="HOST:PORT", help="The board behind a TCP port: a serial server, or an emulator.")
@click.option("--invite", default="", help="Of `msrt invite device`; needed once.")
@click.option("--name", help="The board's name in the tree. Default: the host's and a short id.")
@click.option("--link", type=click.Choice(["zmq", "mqtt"]), help="How it talks to its edge. Default: zmq.")
@click.option(
    "--metrics", metavar="HOST:PORT", help="Prometheus metrics; `off` for none. Default: a free loopback port."
)
@click.option(
    "--sense-ms",
    type=click.IntRange(min=0),
    metavar="MS",
    help="The board reads its own sensor so often. Default: 0, never.",
)
@node_options
def gateway(invite: str, config: Path | None, sets: tuple[str, ...], **flags: Any) -> None:
    """Bring a microcontroller into the tree.

    Holds its identity, runs its session, hands it its models. It is a worker of class `mcu`. One process serves one
    board; it needs a --state directory of its own. Runs until SIGTERM or Ctrl-C, and prints `ready` once the board
    has joined.
    """
    from msrt.process import run  # noqa: PLC0415 - --help stays quick

    given = {key: value for key, value in flags.items() if value is not None}
    settings = load(config, GatewayConfig, parse_sets(sets) | given)

    async def main(stop: asyncio.Event) -> None:
        from msrt_device.gateway.field import serve  # noqa: PLC0415 - --help stays quick

        await serve(settings, invite, stop)

    sys.exit(run(main, drain_s=settings.drain_s))
