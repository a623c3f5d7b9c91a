"""`msrt train compare`: jobs side by side, what they reached and what it cost, where their settings differ, curves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import click
import msgspec

from msrt.operator.plot import plot
from msrt.operator.session import Ask, ask, state_option
from msrt.operator.show import console, json_option, print_json, table
from msrt.operator.train_watch import size
from msrt.training.settings import JobConfig

__all__ = ["compare", "costs", "differing", "flat"]

NEAR: Final = 0.98
"""Without --to: the rounds are counted until so much of what the worst of the jobs reached at best."""


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB JOB...")
@click.option(
    "--to", "target", type=click.FloatRange(0, 1), help="Accuracy to which rounds, bytes and seconds are counted."
)
@click.option(
    "--metric", default="accuracy", show_default=True, type=click.Choice(["accuracy", "loss"]), help="To draw."
)
@json_option
@state_option
def compare(state: Path | None, jobs: tuple[str, ...], target: float | None, metric: str, *, as_json: bool) -> None:
    """Jobs side by side: metrics, the way to an accuracy, settings, curves.

    Final and best metrics, and only the settings that differ. Without --to it is 98 % of the best accuracy of the
    job that reached least, so that all of them have a figure.
    """

    async def work(cloud: Ask) -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(cloud("train.report", job=job) for job in dict.fromkeys(jobs))))

    reports = ask(state, work)
    goal = target if target is not None else _goal(reports)
    rows = [{"job": report["job"], "state": report["state"], **costs(report["rounds"], goal)} for report in reports]
    settings = differing({report["job"]: report["config"] for report in reports})
    if as_json:
        print_json({"to": goal, "jobs": rows, "settings": settings})
        return
    _tables(rows, settings, goal)
    lines = {report["job"]: [line.get(metric) for line in report["rounds"]] for report in reports}
    console().print()
    for line in plot(lines, metric):
        console().print(line, markup=False)


def _goal(reports: list[dict[str, Any]]) -> float | None:
    best = [costs(report["rounds"], None)["best_accuracy"] for report in reports]
    known = [value for value in best if value is not None]
    return round(NEAR * min(known), 4) if known else None


def costs(rounds: list[dict[str, Any]], goal: float | None) -> dict[str, Any]:
    """What a job reached, in all and on its way to an accuracy; None where it never did."""
    known = [line for line in rounds if line.get("accuracy") is not None]
    losses = [line["loss"] for line in rounds if line.get("loss") is not None]
    first = next((i for i, line in enumerate(rounds) if goal is not None and (line.get("accuracy") or 0) >= goal), None)
    way = rounds[: first + 1] if first is not None else None
    return {
        "rounds": len(rounds),
        "accuracy": known[-1]["accuracy"] if known else None,
        "best_accuracy": max((line["accuracy"] for line in known), default=None),
        "loss": losses[-1] if losses else None,
        "best_loss": min(losses, default=None),
        "worst_decile": rounds[-1].get("worst_decile") if rounds else None,
        "epsilon": rounds[-1].get("epsilon") if rounds else None,
        "work": round(fmean(work), 3) if (work := [line.get("work") or 1.0 for line in rounds]) else None,
        "asked": round(fmean(asked), 1) if (asked := [line["asked"] for line in rounds if "asked" in line]) else None,
        **_spent(rounds, ""),
        **(_spent(way, "_to") if way is not None else dict.fromkeys(("seconds_to", "bytes_up_to", "bytes_down_to"))),
        "rounds_to": len(way) if way is not None else None,
    }


def _spent(rounds: list[dict[str, Any]], behind: str) -> dict[str, Any]:
    return {
        f"seconds{behind}": round(sum(line["seconds"] for line in rounds), 3),
        f"bytes_up{behind}": sum(line["bytes_up"] for line in rounds),
        f"bytes_down{behind}": sum(line["bytes_down"] for line in rounds),
    }


def differing(configs: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Settings of job.toml that are not the same in all, by job; its name is not one of them."""
    known = {job: flat(_whole(config)) for job, config in configs.items()}
    keys = sorted({key for settings in known.values() for key in settings} - {"name"})
    rows = {key: {job: settings.get(key) for job, settings in known.items()} for key in keys}
    return {key: row for key, row in rows.items() if len({repr(value) for value in row.values()}) > 1}


def _whole(config: dict[str, Any]) -> dict[str, Any]:
    """With the defaults that it leaves out, as far as this version knows them."""
    with contextlib.suppress(msgspec.ValidationError):
        typed = msgspec.convert(config, JobConfig)
        return {**_fields(typed), "compression": _fields(typed.links)}
    return config


def _fields(table_: msgspec.Struct) -> dict[str, Any]:
    found = {name: getattr(table_, name) for name in table_.__struct_fields__}
    return {name: _fields(value) if isinstance(value, msgspec.Struct) else value for name, value in found.items()}


def flat(table_: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Settings by their path: train.lr."""
    return dict(_flat(table_, before))


def _flat(table_: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for key, value in table_.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _tables(rows: list[dict[str, Any]], settings: dict[str, dict[str, Any]], goal: float | None) -> None:
    shown = [
        {**row, **{f"{way}{to}": size(row[f"bytes_{way}{to}"]) for way in ("up", "down") for to in ("", "_to")
                   if row[f"bytes_{way}{to}"] is not None}}
        for row in rows
    ]  # fmt: skip
    columns = ["job", "state", "rounds", "accuracy", "best_accuracy", "worst_decile", "loss", "best_loss", "asked",
               "work", "seconds", "up", "down"]  # fmt: skip
    table(columns + (["epsilon"] if any(row["epsilon"] is not None for row in rows) else []), shown, empty="")
    if goal is not None:
        console().print(f"\nto an accuracy of {goal:g}")
        table(["job", "rounds_to", "seconds_to", "up_to", "down_to"], shown, empty="")
    if settings:
        console().print("\nsettings that differ")
        table(["setting", *(row["job"] for row in rows)],
              ({"setting": key, **found} for key, found in settings.items()), empty="")  # fmt: skip
