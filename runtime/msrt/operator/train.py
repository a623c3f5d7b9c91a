"""`msrt train`: run, status, stop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from msrt import errors
from msrt.operator.session import Ask, ask, state_option
from msrt.operator.show import console, json_option, print_json, progress, table
from msrt.training.bundle import pack

__all__ = ["train"]

ENDED = ("finished", "failed", "stopped")
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def train() -> None:
    """Training jobs on the devices' own data."""


@train.command()
@click.argument("folder", type=FOLDER)
@click.option("--watch", is_flag=True, help="Show each round until the job ends; survives a restart of the cloud.")
@click.option("--report", type=FILE, help="Write the job's report (JSON) there when it ends; implies --watch.")
@state_option
def run(state: Path | None, folder: Path, report: Path | None, *, watch: bool) -> None:
    """Pack FOLDER (job.toml and sources) and train it on the tree."""

    async def start(cloud: Ask) -> str:
        digest = await cloud.upload_bytes(pack(folder).data)
        return str((await cloud("train.run", bundle=digest))["job"])

    job = ask(state, start)
    console().print(job)
    if watch or report:
        asyncio.run(_watch(state, job))
    if report:
        found = ask(state, lambda cloud: cloud("train.report", job=job))
        import msgspec  # noqa: PLC0415 - only here

        report.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2))
    if watch or report:
        last = ask(state, lambda cloud: cloud("train.status", job=job))[0]
        if last["state"] != "finished":
            raise errors.JobFailed(f"{job} {last['state']}: {last['reason']}")


async def _watch(state: Path | None, job: str) -> None:
    """Poll with a session that is made again whenever the cloud was away."""
    from msrt.operator.session import cloud as session  # noqa: PLC0415 - the async form, only here

    with progress(f"job {job}", 0) as advance:
        while True:
            try:
                async with session(state) as cloud:
                    while True:
                        now: dict[str, Any] = (await cloud("train.status", job=job))[0]
                        advance(now["round"], _note(now))
                        if now["state"] in ENDED:
                            return
                        await asyncio.sleep(0.3)
            except (errors.Disconnected, errors.DeadlineExceeded):
                advance(0, "the cloud is away")
                await asyncio.sleep(0.5)


def _note(now: dict[str, Any]) -> str:
    metrics = now.get("metrics") or {}
    shown = " ".join(f"{k}={v:.4f}" for k, v in metrics.items() if k in ("loss", "accuracy"))
    return f"of {now['rounds']} {now['state']} {shown} {now.get('reported', 0)}/{now.get('expected', 0)}".strip()


@train.command()
@click.argument("job", required=False)
@click.option("--report", type=FILE, help="Write JOB's report there.")
@json_option
@state_option
def status(state: Path | None, job: str | None, report: Path | None, *, as_json: bool) -> None:
    """All jobs, or one."""
    if report:
        if not job:
            raise errors.CallerError("--report needs a job", hint="msrt train status JOB --report FILE")
        found = ask(state, lambda cloud: cloud("train.report", job=job))
        import msgspec  # noqa: PLC0415 - only here

        report.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2))
        return
    rows = ask(state, lambda cloud: cloud("train.status", job=job or ""))
    if as_json:
        print_json(rows)
    else:
        columns = ["job", "state", "round", "rounds", "metrics", "reported", "expected", "reason"]
        table(columns, rows, empty="no job yet: msrt train run FOLDER")


@train.command()
@click.argument("job")
@state_option
def stop(state: Path | None, job: str) -> None:
    """End a job; its last checkpoint stays."""
    ask(state, lambda cloud: cloud("train.stop", job=job))
    console().print(f"{job} is stopped")
