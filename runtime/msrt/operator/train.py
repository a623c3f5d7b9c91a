"""`msrt train`: run, status, pause, resume, stop, remove. The others have files of their own."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import Any

import click

from msrt import errors
from msrt.operator.session import Ask, ask, state_option
from msrt.operator.show import console, json_option, print_json, table
from msrt.operator.train_compare import compare
from msrt.operator.train_export import FILE, check_folders, export, write_csv, write_json
from msrt.operator.train_list import list_jobs
from msrt.operator.train_logs import logs
from msrt.operator.train_nodes import nodes_of, report_of, show_nodes
from msrt.operator.train_serve import serve
from msrt.operator.train_simulate import simulate
from msrt.operator.train_watch import NOTED, size, watch_job
from msrt.training.bundle import pack

__all__ = ["train"]

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
COLUMNS = ["job", "state", "round", "rounds", "metrics", "reported", "up", "down", "waits_for", "reason"]
OPTIONAL = {"reported", "waits_for", "reason"}
"""Columns that are there only where a row has something in them."""
WORDS = 80
"""Characters of a reason in a list of jobs: that of one alone is shown whole."""


@click.group()
def train() -> None:
    """Training jobs on the devices' own data."""


@train.command()
@click.argument("folder", type=FOLDER)
@click.option("--watch", is_flag=True, help="Show each round until the job ends; goes on over a restart of the cloud.")
@click.option("--report", type=FILE, help="Write the job's report (JSON) there when it ends; implies --watch.")
@click.option("--from", "start", default="", metavar="JOB", help="Start from the weights that JOB ended with.")
@json_option
@state_option
def run(state: Path | None, folder: Path, report: Path | None, start: str, *, watch: bool, as_json: bool) -> None:
    """Train what FOLDER holds (job.toml and sources) on the tree.

    Packs and sends it, and prints the job's name; `msrt train status` tells the rest. With --watch the exit status is 0
    only if the job finished.
    """
    check_folders(report)
    bundle = pack(folder)

    async def begin(cloud: Ask) -> str:
        digest = await cloud.upload_bytes(bundle.data)
        more = {"start": start} if start else {}
        try:
            return str((await cloud("train.run", bundle=digest, **more))["job"])
        except errors.Disconnected as error:  # not asked again: it may be a job already
            raise errors.Disconnected(error.text, hint="msrt train list shows whether the cloud took the job") from None

    job = ask(state, begin)
    if not watch and not report:
        if as_json:
            print_json({"job": job})
        else:
            click.echo(job)
        return
    if not as_json:
        click.echo(job)
    _follow(state, job, report, as_json=as_json)


def _follow(state: Path | None, job: str, report: Path | None, *, as_json: bool) -> None:
    """Until it ends. Raises JobFailed unless it finished."""

    async def work(cloud: Ask) -> dict[str, Any]:
        row = await watch_job(cloud, job)
        if report:
            write_json(report, await report_of(cloud, job))
        return row

    try:
        row = ask(state, work)
    except KeyboardInterrupt:
        click.echo(f"{job} goes on: msrt train status {job} --watch; msrt train stop {job} ends it", err=True)
        raise
    if as_json:
        print_json(row)
    else:
        _table([row if row["state"] == "finished" else row | {"reason": ""}])  # else it comes in the error
    if row["state"] != "finished":
        raise errors.JobFailed(f"{job} {row['state']}: {row['reason'] or 'no reason was given'}")


@train.command()
@click.argument("job", required=False)
@click.option("--report", type=FILE, help="Write JOB's report (JSON) there.")
@click.option("--csv", type=FILE, help="Write JOB's curves there, a line a round.")
@click.option("--nodes", is_flag=True, help="How JOB's model serves single nodes, the worst first.")
@click.option("--watch", is_flag=True, help="Show each round of JOB until it ends.")
@json_option
@state_option
def status(
    state: Path | None, job: str | None, report: Path | None, csv: Path | None, *, nodes: bool, watch: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """How training stands: all jobs, or JOB."""
    for option, given in (("report", report), ("csv", csv), ("nodes", nodes), ("watch", watch)):
        if given and not job:
            raise errors.CallerError(f"--{option} needs a job", hint="msrt train status JOB --report FILE")
    check_folders(report, csv)
    if watch and job:
        _follow(state, job, report, as_json=as_json)
        return
    if report or csv:
        found = ask(state, lambda cloud: report_of(cloud, str(job)))
        if report:
            write_json(report, found)
        if csv:
            write_csv(csv, found)
        return
    if nodes:
        judged = ask(state, lambda cloud: nodes_of(cloud, str(job)))
        (print_json if as_json else show_nodes)(judged)
        return
    rows = ask(state, lambda cloud: cloud("train.status", job=job or ""))
    if as_json:
        print_json(rows)
    else:
        _table(rows)


def _table(rows: list[dict[str, Any]]) -> None:
    shown = [
        {
            **row, "metrics": {key: row["metrics"][key] for key in NOTED if key in row["metrics"]},
            "up": size(row["bytes_up"]), "down": size(row["bytes_down"]), "waits_for": row["stragglers"],
            "trigger": _trigger(row.get("trigger")),
            "reported": f"{row['reported']}/{row['expected']}" if row["expected"] else "",
        }
        for row in rows
    ]  # fmt: skip
    if len(shown) > 1:
        shown = [row | {"reason": shorten(row["reason"], WORDS, placeholder=" ...")} for row in shown]
    more = [name for name in ("cause", "after", "trigger") if any(row.get(name) for row in shown)]
    columns = [name for name in COLUMNS if name not in OPTIONAL or any(row[name] for row in shown)]
    table(columns + more, shown, empty="no job yet: msrt train run FOLDER")


def _trigger(found: dict[str, Any] | None) -> str:
    """How near the next job is, in words."""
    if not found:
        return ""
    if not found["watches"]:
        return "off"
    parts = [f"{found['events']}/{found['of']} events of {found['model']}"] if found["of"] else []
    if found["drift"]:
        parts.append(f"drift at {len(found['drifted'])}/{found['devices']} devices")
    if found["cooldown_s"] > 0:
        parts.append(f"not within {found['cooldown_s']:.0f} s")
    return ", ".join(parts)


@train.command()
@click.argument("job")
@state_option
def pause(state: Path | None, job: str) -> None:
    """Open no further round of JOB; the open one ends, then devices let its process go.

    Of a job that is over it pauses its [trigger].
    """
    ask(state, lambda cloud: cloud("train.pause", job=job))
    console().print(f"{job} is paused: msrt train resume {job}")


@train.command()
@click.argument("job")
@state_option
def resume(state: Path | None, job: str) -> None:
    """Let JOB go on where it was paused."""
    ask(state, lambda cloud: cloud("train.resume", job=job))
    console().print(f"{job} goes on")


@train.command()
@click.argument("job")
@state_option
def stop(state: Path | None, job: str) -> None:
    """End JOB; its last checkpoint stays."""
    ask(state, lambda cloud: cloud("train.stop", job=job))
    console().print(f"{job} is stopped")


@train.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@state_option
def remove(state: Path | None, jobs: tuple[str, ...]) -> None:
    """Forget JOBs that are over: their curves now, their weights and bundles after a day.

    What others started from, and models that were published, stay.
    """

    async def work(cloud: Ask) -> None:
        for job in jobs:
            await cloud("train.remove", job=job)
            console().print(f"{job} is removed")

    ask(state, work)


for command in (list_jobs, logs, compare, export, serve, simulate):
    train.add_command(command)
