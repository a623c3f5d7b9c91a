"""`msrt demo`."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click

from msrt.cli import MissingExtra

__all__ = ["demo"]

NEEDS: Final = ("uvicorn", "onnx", "onnxruntime", "paho", "torch", "sklearn")
"""Of each tier what comes last: better to hear of it now than in the third chapter."""


@click.command()
@click.option("--keep", is_flag=True, help="Leave the tree running, and print commands to play with it and to end it.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write what was measured (JSON) there.")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    help="Where the nodes keep everything. Default: a new directory, removed if all held.",
)
def demo(*, keep: bool, report: Path | None, state: Path | None) -> None:
    """The whole story in a minute, on this machine alone.

    One cloud, two edges and six devices, in processes of their own on loopback: they train, quantise, roll out and
    serve a model, and lose nothing to three kills. Exit status 0 only if everything held.
    """
    for package in NEEDS:
        if find_spec(package) is None:
            raise MissingExtra("demo", package, "cloud,edge,device,train")
    from msrt.demo.play import Outcome, play  # noqa: PLC0415 - --help stays quick
    from msrt.process import run  # noqa: PLC0415
    from msrt.telemetry import logs  # noqa: PLC0415

    logs.configure("console", "error")  # what our own sessions say while nodes die is no part of the story
    fresh = state is None
    folder = (state or Path(tempfile.mkdtemp(prefix="msrt-demo-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    outcome = Outcome()

    async def main(stop: asyncio.Event) -> None:
        await play(folder, stop, outcome, keep=keep)

    status = run(main, drain_s=30.0)
    if report is not None and outcome.report is not None:
        report.write_bytes(outcome.report.encode())
    if fresh and not keep and outcome.ok:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
    elif not (keep and outcome.ok):
        click.echo(f"logs and state are in {folder}", err=True)
    sys.exit(status or (130 if outcome.stopped else 0 if outcome.ok else 1))
