"""How a command prints: tables for people, JSON for programs, bars where there is a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

__all__ = ["console", "json_option", "print_json", "progress", "table", "warn"]

WIDE = 10_000
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def console() -> Console:
    """Standard output; where it is no terminal, as wide as what is printed."""
    found = Console(highlight=False, soft_wrap=True)
    return found if found.is_terminal else Console(highlight=False, soft_wrap=True, width=WIDE)


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def table(columns: Sequence[str], rows: Iterable[Mapping[str, object]], *, empty: str) -> None:
    """A table of the named columns; `empty` is said when there is nothing."""
    drawn = Table(*(c.replace("_", " ") for c in columns), box=None, pad_edge=False, header_style="bold")
    count = 0
    for row in rows:
        count += 1
        drawn.add_row(*(_cell(row.get(column)) for column in columns))
    out = console()
    if out.is_terminal or not count:
        out.print(drawn if count else empty)
        return
    with out.capture() as lines:
        out.print(drawn)
    for line in lines.get().splitlines():
        click.echo(line.rstrip())


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return " ".join(f"{k}={_cell(v)}" for k, v in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(v) for v in value) or "-"
    return str(value)


def warn(text: str) -> None:
    """A line on standard error."""
    click.echo(f"warning: {text}", err=True)


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """A bar on a terminal, a line per change elsewhere. Yields `advance(done, note)`."""
    if not console().is_terminal:
        last: list[tuple[int, str]] = []

        def say(done: int, note: str) -> None:
            if not last or last[-1] != (done, note):
                last[:] = [(done, note)]
                click.echo(f"{what}: {done}/{total} {note}".rstrip(), err=True)

        yield say
        return
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[note]}"), TimeElapsedColumn(), console=Console(stderr=True),
    ) as bars:  # fmt: skip
        task = bars.add_task(what, total=total, note="")
        yield lambda done, note: bars.update(task, completed=done, note=note)
