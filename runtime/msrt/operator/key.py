"""`msrt key`: API keys for callers over HTTP and gRPC."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import click

from msrt.operator.session import ask, state_option
from msrt.operator.show import console, json_option, print_json, table

__all__ = ["key"]


def _rate(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float:
    if value is None:
        return 0.0
    found = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)(?:/s)?", value)
    if found is None or not float(found[1]):
        raise click.BadParameter(f"{value!r} is no rate; write 50 or 50/s")
    return float(found[1])


@click.group()
def key() -> None:
    """API keys: what callers over HTTP and gRPC show to edges and cloud.

    Callers on the same machine need none.
    """


@key.command()
@click.argument("name")
@click.option(
    "--role", type=click.Choice(["client", "operator"]), required=True,
    help="client: infer, and look at models; operator: also events, metrics, loading and unloading.",
)  # fmt: skip
@click.option("--rate", callback=_rate, metavar="N/s", help="Most requests a second at each edge. Default: any.")
@click.option("--expires", type=click.FloatRange(0, min_open=True), metavar="DAYS", help="Default: never.")
@state_option
def create(state: Path | None, name: str, role: str, rate: float, expires: float | None) -> None:
    """Make a key for NAME and print it, alone on standard output. It is shown this once and kept nowhere."""
    params: dict[str, object] = {"name": name, "role": role, "rate": rate, "days": expires or 0.0}
    found = ask(state, lambda cloud: cloud("key.create", 30.0, **params))
    click.echo(found["key"])


@key.command(name="list")
@json_option
@state_option
def list_keys(state: Path | None, *, as_json: bool) -> None:
    """Every key, the revoked and expired too."""
    rows = ask(state, lambda cloud: cloud("key.list"))
    if as_json:
        print_json(rows)
        return
    for row in rows:
        row["rate"] = f"{row['rate']:g}/s" if row["rate"] else None
        row["created"], row["expires"] = _day(row["created"]), _day(row["expires"])
    columns = ["name", "role", "state", "rate", "created", "expires", "id"]
    table(columns, rows, empty="no key yet: msrt key create NAME --role client")


@key.command()
@click.argument("name")
@state_option
def revoke(state: Path | None, name: str) -> None:
    """Let nobody in with a key any more. An edge without its cloud hears of it when they meet again."""
    ask(state, lambda cloud: cloud("key.revoke", name=name))
    console().print(f"the key {name} is revoked")


def _day(wall: float | None) -> str:
    return dt.datetime.fromtimestamp(wall, dt.UTC).strftime("%Y-%m-%d %H:%M") if wall else ""
