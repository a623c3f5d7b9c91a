"""`msrt events`: what devices found in their own readings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from msrt.operator.session import Ask, ask, patient, state_option

__all__ = ["events"]

WAIT_S = 10.0


@click.group()
def events() -> None:
    """Events of the devices' own sensors."""


@events.command()
@click.option("--model", default="", help="Only of this model.")
@click.option("--device", default="", help="Only of this device (name or id).")
@click.option("--since", default=-1, help="Begin after this offset; 0: with the oldest kept. Default: from now on.")
@click.option("--count", default=0, help="Stop after that many.")
@state_option
def follow(state: Path | None, model: str, device: str, since: int, count: int) -> None:
    """Print events as they come, one JSON object a line.

    Until Ctrl-C, also over a restart of the cloud.
    `offset` in a line is what --since takes: nothing is missed between two runs, as long as the cloud keeps it.
    """

    async def work(cloud: Ask) -> None:
        after, printed = since, 0
        while True:
            found: dict[str, Any] = await patient(
                cloud, "events.after", WAIT_S * 3,
                after=after, model=model, device=device, limit=500, wait_s=WAIT_S,
            )  # fmt: skip
            for event in found["events"]:
                click.echo(msgspec.json.encode(event).decode())
                printed += 1
                if count and printed >= count:
                    return
            after = found["next"]

    ask(state, work)
