"""`msrt train list`: jobs by state, name and date."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from msrt.errors import CallerError
from msrt.operator.session import ask, state_option
from msrt.operator.show import json_option, print_json, table
from msrt.operator.train_watch import size

__all__ = ["list_jobs", "moment"]

STATES: Final = ("queued", "running", "paused", "finished", "failed", "stopped")
UNITS: Final = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
AGO: Final = re.compile(r"^(\d+(?:\.\d+)?)([mhdw])$")
COLUMNS: Final = ["job", "state", "round", "rounds", "loss", "accuracy", "best", "seconds", "up", "down", "created",
                  "ended", "by", "cause"]  # fmt: skip


@click.command(name="list")
@click.option("--only", "states", multiple=True, type=click.Choice(STATES), help="Only in this state; may be repeated.")
@click.option("--name", default="", help="Only jobs with this in their name.")
@click.option("--since", default="", help="Created since: 2h, 3d, 1w, or a date as 2031-05-01 or 2031-05-01T12:00.")
@click.option("--until", default="", help="Created before; the same forms.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000), help="The newest so many.")
@json_option
@state_option
def list_jobs(
    state: Path | None, states: tuple[str, ...], name: str, since: str, until: str, limit: int, *, as_json: bool
) -> None:
    """Jobs with their dates and what they reached, newest last."""
    now = datetime.now(UTC).timestamp()
    asked = {"states": list(states), "name": name, "limit": limit}
    asked |= {"since": moment(since, now), "until": moment(until, now)}
    rows = ask(state, lambda cloud: cloud("train.list", **asked))
    if as_json:
        print_json(rows)
        return
    chosen = states or name or since or until
    none = "no such job: msrt train list" if chosen else "no job yet: msrt train run FOLDER"
    table(COLUMNS, (_shown(row) for row in rows), empty=none)


def moment(text: str, now: float) -> float:
    """Seconds since 1970 of a date (this machine's zone where it names none), or of so long ago; 0 for nothing.

    Raises CallerError.
    """
    if not text:
        return 0.0
    ago = AGO.match(text)
    if ago:
        return now - float(ago[1]) * UNITS[ago[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise CallerError(f"{text!r} is no date", hint="as 2h, 3d, 2031-05-01 or 2031-05-01T12:00") from None


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row, "loss": row["metrics"].get("loss"), "accuracy": row["metrics"].get("accuracy"),
        "up": size(row["bytes_up"]), "down": size(row["bytes_down"]),
        "created": _date(row["created"]), "ended": _date(row["ended"]),
    }  # fmt: skip


def _date(wall: float | None) -> str:
    return datetime.fromtimestamp(wall, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S") if wall else ""
