"""A job watched until it ends: bars and the last rounds on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Self

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from msrt.operator.session import Ask, patient
from msrt.operator.show import console

__all__ = ["ENDED", "listing", "size", "view", "watch_job"]

ENDED: Final = ("finished", "failed", "stopped")
LOOK_S: Final = 0.3
LAST: Final = 8
"""Rounds shown on a terminal."""
NAMES: Final = 4
NOTED: Final = ("loss", "accuracy", "epsilon")
UNITS: Final = ("B", "kB", "MB", "GB", "TB")
ROUNDS_UP: Final = 999.5
"""From here on three digits would show as 1e+03."""


async def watch_job(cloud: Ask, job: str) -> dict[str, Any]:
    """The job's row once it has ended. Asks again over a restart of the cloud."""
    row: dict[str, Any] = (await patient(cloud, "train.status", job=job))[0]
    shown = _Bars() if console().is_terminal else _Lines()
    with shown:
        while True:
            await shown.show(cloud, row)
            if row["state"] in ENDED:
                return row
            await asyncio.sleep(LOOK_S)
            row = (await patient(cloud, "train.status", job=job))[0]


class _Lines:
    """A line on standard error for each change."""

    def __init__(self) -> None:
        self._last = ""
        self._faults: set[tuple[str, str]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    async def show(self, _cloud: Ask, row: dict[str, Any]) -> None:
        for name, fault in row.get("failed", {}).items():
            if (name, fault) not in self._faults:
                self._faults.add((name, fault))
                click.echo(f"job {row['job']}: {name} failed: {fault}", err=True)
        line = f"job {row['job']}: {row['round']}/{row['rounds']} {_note(row)}".rstrip()
        if line != self._last:
            self._last = line
            click.echo(line, err=True)


class _Bars:
    """What `view` draws, drawn again at each look; the last rounds' lines are fetched when there are more of them."""

    def __init__(self) -> None:
        self._live = Live(console=Console(stderr=True), auto_refresh=False)
        self._rounds: list[dict[str, Any]] = []
        self._known = -1

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    async def show(self, cloud: Ask, row: dict[str, Any]) -> None:
        if row["round"] != self._known:
            self._known = row["round"]
            after = max(0, row["round"] - LAST)
            self._rounds = (await patient(cloud, "train.report", job=row["job"], after=after))["rounds"]
        self._live.update(view(row, self._rounds), refresh=True)


def view(row: dict[str, Any], rounds: list[dict[str, Any]]) -> RenderableType:
    """Bars of rounds and of nodes, the last rounds, and who is waited for."""
    bars = Table.grid(padding=(0, 1))
    bars.add_row(f"job {row['job']}", ProgressBar(row["rounds"], row["round"], width=40), _of(row, "round", "rounds"))
    if row["expected"]:
        bar = ProgressBar(row["expected"], row["reported"], width=40)
        bars.add_row("this round", bar, _this_round(row, "nodes"))
    traffic = f"up {size(row['bytes_up'])}  down {size(row['bytes_down'])}"
    line = Text(f"{row['state']}  {traffic}  {row['reason']}".rstrip())
    parts: list[RenderableType] = [bars, line]
    if row["stragglers"]:
        parts.append(Text(f"waiting for {listing(row['stragglers'])}", style="yellow"))
    faults = list(row.get("failed", {}).items())
    parts += [Text(f"{name} failed: {fault}", style="red") for name, fault in faults[:NAMES]]
    if len(faults) > NAMES:
        parts.append(Text(f"and {len(faults) - NAMES} more: msrt train logs {row['job']}", style="red"))
    if rounds:
        parts.append(_last_rounds(rounds[-LAST:]))
    return Group(*parts)


def _last_rounds(rounds: list[dict[str, Any]]) -> Table:
    names = ("round", "loss", "accuracy", "worst tenth", "seconds", "nodes", "absent", "failed", "up", "down")
    private = ("epsilon",) if any("epsilon" in one for one in rounds) else ()
    partial = ("work",) if any((one.get("work") or 1.0) < 1.0 for one in rounds) else ()
    drawn = Table(*names, *partial, *private, box=None, pad_edge=False, header_style="bold")
    for one in rounds:
        numbers = (one.get("loss"), one.get("accuracy"), one.get("worst_decile"), one["seconds"])
        drawn.add_row(
            str(one["round"]), *(_number(value) for value in numbers), _nodes(one),
            listing(one.get("stragglers", [])) or "-", str(len(one.get("failed", ()))),
            size(one["bytes_up"]), size(one["bytes_down"]), *(_number(one.get(name)) for name in (*partial, *private)),
        )  # fmt: skip
    return drawn


def _nodes(one: dict[str, Any]) -> str:
    """How many are in it; and of how many, where it asked only some of them."""
    asked, eligible = one.get("asked", 0), one.get("eligible", 0)
    return f"{one.get('nodes', '-')}" + (f" of {asked}/{eligible}" if asked < eligible else "")


def _of(row: dict[str, Any], done: str, of: str) -> str:
    return f"{row[done]}/{row[of]}"


def _this_round(row: dict[str, Any], nodes: str) -> str:
    """How far it is: in nodes, called `nodes` here, or where workers go at their own pace in steps or data."""
    counted = row.get("counted", "nodes")
    if counted == "percent":
        return f"{row['reported'] / row['expected']:.0%} of the round"
    return f"{_of(row, 'reported', 'expected')} {nodes if counted == 'nodes' else counted}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def listing(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(names[:NAMES]) + more


def _note(row: dict[str, Any]) -> str:
    metrics = row.get("metrics") or {}
    shown = " ".join(f"{k}={v:.4f}" for k, v in metrics.items() if k in NOTED)
    worst, work = row.get("worst_decile"), metrics.get("work", 1.0)
    shown += f" worst tenth={worst:.4f}" if worst is not None else ""
    shown += f" work={work:.2f}" if work < 1.0 else ""
    told = _this_round(row, "reported") if row["expected"] else ""
    waits = f"waiting for {listing(row['stragglers'])}" if row["stragglers"] else ""
    traffic = f"up {size(row['bytes_up'])} down {size(row['bytes_down'])}" if row["bytes_up"] else ""
    return " ".join(part for part in (row["state"], shown, told, waits, traffic, row["reason"]) if part)


def size(count: float) -> str:
    """Bytes for people: 1.2 MB."""
    for unit in UNITS:
        if count < ROUNDS_UP or unit == UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == UNITS[0] else f"{count:.3g} {unit}"
