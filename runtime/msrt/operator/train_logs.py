"""`msrt train logs`: what a job's processes printed last, on each node and on the cloud."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import click

from msrt.operator.session import Ask, ask, patient, state_option
from msrt.operator.train_watch import ENDED, listing

__all__ = ["logs"]

LOOK_S: Final = 1.0
AT_ONCE: Final = 200
"""Lines that one look of --follow takes of a node at most."""


@click.command()
@click.argument("job")
@click.option(
    "--node", default="", help="Only of this node (name or id); `cloud`: of the process that makes the model."
)
@click.option("--lines", default=20, show_default=True, type=click.IntRange(1), help="The last so many of each node.")
@click.option("--follow", is_flag=True, help="Go on with new lines until the job ends.")
@state_option
def logs(state: Path | None, job: str, node: str, lines: int, *, follow: bool) -> None:
    """The last lines that JOB's processes printed, each behind the name of its node.

    They are kept by each node until it starts again, so also what a process said before it died. Who has none, or is
    away, is named on standard error.
    """

    async def work(cloud: Ask) -> None:
        after: dict[str, int] = {}
        silent: dict[str, str] = {}
        most = lines
        while True:
            ended = (await patient(cloud, "train.status", job=job))[0]["state"] in ENDED
            rows = await patient(cloud, "train.logs", job=job, node=node, lines=most, after=after)
            for row in rows:
                for line in row["lines"]:
                    click.echo(f"{row['name']}  {line}")
                after[row["node"]] = row["next"]
            _excuse(rows, silent)
            if ended or not follow:
                if not any(after.values()):
                    click.echo(f"{job} printed nothing", err=True)
                return
            most = AT_ONCE
            await asyncio.sleep(LOOK_S)

    ask(state, work)


def _excuse(rows: list[dict[str, Any]], silent: dict[str, str]) -> None:
    """Who has no lines, and why: a line for each reason. `silent` remembers what was said of whom, so once."""
    names: dict[str, list[str]] = {}
    for row in rows:
        error = row.get("error", "")
        if error and silent.get(row["node"]) != error:
            names.setdefault(error, []).append(row["name"])
        silent[row["node"]] = error
    for error, whose in names.items():
        click.echo(f"{listing(whose)}: {error}", err=True)
