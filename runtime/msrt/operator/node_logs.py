"""`msrt node logs` and `msrt node diagnose`: a node from afar, through its edge; it opens no port for this."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from msrt import errors
from msrt.operator.session import Ask, ask, patient, state_option
from msrt.operator.show import json_option, print_json, table

__all__ = ["diagnose", "logs"]

LOOK_S: Final = 1.0
MINUTE: Final = 60
AT_ONCE: Final = 500
"""Lines that one look of --follow takes at most."""


@click.command()
@click.argument("name")
@click.option("--lines", default=50, show_default=True, type=click.IntRange(0), help="How many of the last lines.")
@click.option("--follow", is_flag=True, help="Go on with new lines; over its restarts, and while it is away.")
@state_option
def logs(state: Path | None, name: str, lines: int, *, follow: bool) -> None:
    """The last log lines of a node, fetched through its edge."""

    async def work(cloud: Ask) -> None:
        if not follow:
            _print(await cloud("node.logs", node=name, lines=lines))
            return
        found = await patient(cloud, "node.logs", node=name, lines=lines, after=0)
        away = False
        while isinstance(found, dict):  # a list: a node of an earlier version, which counts nothing
            _print(found["lines"])
            await asyncio.sleep(LOOK_S)
            after, run = found["next"], found["run"]
            try:
                found = await patient(cloud, "node.logs", node=name, lines=AT_ONCE, after=after, run=run)
                away = False
            except errors.Unavailable as error:
                if not away:
                    click.echo(f"msrt: {error.text}", err=True)
                away, found = True, {**found, "lines": []}
        _print(found)

    ask(state, work)


def _print(lines: list[str]) -> None:
    for line in lines:
        click.echo(line)


@click.command()
@click.argument("name")
@json_option
@state_option
def diagnose(state: Path | None, name: str, *, as_json: bool) -> None:
    """What a node says of itself now, through its edge.

    Versions, memory, disk, clock, links, slots, models, errors.
    """
    found = ask(state, lambda cloud: cloud("node.diagnose", node=name))
    if as_json:
        print_json(found)
    else:
        table(["what", "value"], _rows(found), empty="nothing")


def _rows(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each thing; lists and tables a row for each of their parts."""
    for what, said in found.items():
        value = _readable(what, said)
        parts: list[Any] = value if isinstance(value, list) else [value]
        if isinstance(value, dict):
            parts = [f"{key}: {inner}" for key, inner in value.items()]
        for part in parts or ["-"]:
            yield {"what": what, "value": json.dumps(part) if isinstance(part, dict | list) else part}


def _readable(what: str, value: Any) -> Any:
    """Bytes, durations and times of day as people write them; everything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if what == "wall":
        return f"{dt.datetime.fromtimestamp(value, dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
    if what.endswith("_bytes"):
        return f"{value / (1 << 20):,.1f} MiB"
    if what.endswith("_s") and abs(value) >= MINUTE:
        return f"{value:,.0f} s ({dt.timedelta(seconds=round(value))})"
    return value
