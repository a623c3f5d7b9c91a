"""`msrt train`: run, status, stop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click
import msgspec

from msrt import errors
from msrt.operator.session import Ask, ask, patient, state_option
from msrt.operator.show import console, json_option, print_json, progress, table
from msrt.training.bundle import pack

__all__ = ["train"]

ENDED = ("finished", "failed", "stopped")
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
LOOK_S = 0.3
COLUMNS = ["job", "state", "round", "rounds", "metrics", "reported", "expected", "reason"]


@click.group()
def train() -> None:
    """Training jobs on the devices' own data."""


@train.command()
@click.argument("folder", type=FOLDER)
@click.option("--watch", is_flag=True, help="Show each round until the job ends; goes on over a restart of the cloud.")
@click.option("--report", type=FILE, help="Write the job's report (JSON) there when it ends; implies --watch.")
@json_option
@state_option
def run(state: Path | None, folder: Path, report: Path | None, *, watch: bool, as_json: bool) -> None:
    """Train what FOLDER holds (job.toml and sources) on the tree.

    Packs and sends it, and prints the job's name; `msrt train status` tells the rest. With --watch the exit status is 0
    only if the job finished.
    """
    bundle = pack(folder)

    async def start(cloud: Ask) -> str:
        digest = await cloud.upload_bytes(bundle.data)
        return str((await cloud("train.run", bundle=digest))["job"])

    async def follow(cloud: Ask) -> dict[str, Any]:
        row = await _watch(cloud, job)
        if report:
            _write(report, await cloud("train.report", job=job))
        return row

    job = ask(state, start)
    if not watch and not report:
        if as_json:
            print_json({"job": job})
        else:
            click.echo(job)
        return
    if not as_json:
        click.echo(job)
    row = ask(state, follow)
    if as_json:
        print_json(row)
    else:
        table(COLUMNS, [row], empty="")
    if row["state"] != "finished":
        raise errors.JobFailed(f"{job} {row['state']}: {row['reason'] or 'no reason was given'}")


async def _watch(cloud: Ask, job: str) -> dict[str, Any]:
    """The job's row once it has ended."""
    row: dict[str, Any] = (await patient(cloud, "train.status", job=job))[0]
    with progress(f"job {job}", row["rounds"]) as advance:
        while row["state"] not in ENDED:
            advance(row["round"], _note(row))
            await asyncio.sleep(LOOK_S)
            row = (await patient(cloud, "train.status", job=job))[0]
        advance(row["round"], _note(row))
    return row


def _note(row: dict[str, Any]) -> str:
    metrics = row.get("metrics") or {}
    shown = " ".join(f"{k}={v:.4f}" for k, v in metrics.items() if k in ("loss", "accuracy"))
    told = f"{row['reported']}/{row['expected']} reported" if row["expected"] else ""
    return " ".join(part for part in (row["state"], shown, told, row["reason"]) if part)


def _write(path: Path, report: object) -> None:
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    except OSError as error:
        raise errors.LocalError(f"the report cannot be written to {path}: {error.strerror}") from error


@train.command()
@click.argument("job", required=False)
@click.option("--report", type=FILE, help="Write JOB's report (JSON) there.")
@json_option
@state_option
def status(state: Path | None, job: str | None, report: Path | None, *, as_json: bool) -> None:
    """How training stands: all jobs, or JOB."""
    if report:
        if not job:
            raise errors.CallerError("--report needs a job", hint="msrt train status JOB --report FILE")
        _write(report, ask(state, lambda cloud: cloud("train.report", job=job)))
        return
    rows = ask(state, lambda cloud: cloud("train.status", job=job or ""))
    if as_json:
        print_json(rows)
    else:
        table(COLUMNS, rows, empty="no job yet: msrt train run FOLDER")


@train.command()
@click.argument("job")
@state_option
def stop(state: Path | None, job: str) -> None:
    """End JOB; its last checkpoint stays."""
    ask(state, lambda cloud: cloud("train.stop", job=job))
    console().print(f"{job} is stopped")
