"""`msrt cloud start`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from msrt.cli import node_options
from msrt.config import load, parse_sets
from msrt.settings import CloudConfig
from msrt_cloud.signing_command import keys

__all__ = ["cloud"]


@click.group()
def cloud() -> None:
    """The cloud master: one per tree."""


@cloud.command()
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where edges, clients and operators come in. Default: a free loopback port, kept.",
)
@click.option("--http", metavar="HOST:PORT", help="Metrics and health. Default: a free loopback port, kept.")
@click.option("--grpc", metavar="HOST:PORT", help="Inference over gRPC. Default: none.")
@click.option("--trace", metavar="URL", help="OpenTelemetry collector for spans (OTLP over HTTP). Default: none.")
@node_options
def start(config: Path | None, sets: tuple[str, ...], **flags: str | None) -> None:
    """Start the cloud master. The first start makes its keys and state, and prints how to join.

    Runs until SIGTERM or Ctrl-C. Prints where it is reached, and `ready`.
    """
    from msrt.process import run  # noqa: PLC0415 - --help stays quick

    settings = load(config, CloudConfig, parse_sets(sets) | flags)

    async def main(stop: asyncio.Event) -> None:
        from msrt_cloud.field import serve  # noqa: PLC0415 - --help stays quick

        await serve(settings, stop)

    sys.exit(run(main, drain_s=settings.drain_s))


cloud.add_command(keys)
