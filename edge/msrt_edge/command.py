"""`msrt edge join`: the first time with an invite, later without."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from msrt.cli import node_options
from msrt.config import load, parse_sets
from msrt.settings import EdgeConfig

__all__ = ["edge"]


@click.group()
def edge() -> None:
    """Edge masters: one or more a region."""


@edge.command()
@click.argument("invite", required=False)
@click.option("--name", help="Its name in the tree. Default: the host's and a short id.")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where devices and clients come in (ZeroMQ). Default: a free loopback port, kept.",
)
@click.option(
    "--mqtt",
    metavar="HOST:PORT|URL",
    help="Where its own MQTT broker listens, or the URL of a broker of yours. Default: a free loopback port, kept.",
)
@click.option("--http", metavar="HOST:PORT", help="Inference, events, metrics. Default: a free loopback port, kept.")
@click.option("--grpc", metavar="HOST:PORT", help="Inference over gRPC. Default: none.")
@click.option("--trace", metavar="URL", help="OpenTelemetry collector for spans (OTLP over HTTP). Default: none.")
@node_options
def join(invite: str | None, config: Path | None, sets: tuple[str, ...], **flags: str | None) -> None:
    """Join the tree with INVITE (of `msrt invite edge`) and serve.

    Later starts need none. Runs until SIGTERM or Ctrl-C. Prints where it is reached, and `ready`.
    """
    from msrt.process import run  # noqa: PLC0415 - --help stays quick

    mqtt = flags.get("mqtt")
    if mqtt and "://" in mqtt:
        flags |= {"mqtt": None, "mqtt_url": mqtt}
    settings = load(config, EdgeConfig, parse_sets(sets) | flags)

    async def main(stop: asyncio.Event) -> None:
        from msrt_edge.field import serve  # noqa: PLC0415 - --help stays quick

        await serve(settings, invite or "", stop)

    sys.exit(run(main, drain_s=settings.drain_s))
