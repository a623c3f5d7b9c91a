"""`msrt train simulate`: a job tried out in this process before it goes to a fleet."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.live import Live

from msrt import errors
from msrt.operator.show import console, json_option, print_json, table
from msrt.operator.train_export import FILE, check_folders, write_csv, write_json
from msrt.operator.train_watch import size, view
from msrt.training.bundle import pack
from msrt.training.settings import JobConfig

if TYPE_CHECKING:
    from msrt.training.simulation import Simulation

__all__ = ["simulate"]

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
SHARE = click.FloatRange(0, 1)
COLUMNS = ["job", "state", "round", "rounds", "nodes", "accuracy", "alone_mean", "pooled", "epsilon", "up", "down",
           "seconds", "reason"]  # fmt: skip


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--nodes", type=click.IntRange(1), default=10, show_default=True, help="Simulated devices.")
@click.option("--regions", type=click.IntRange(1), default=1, show_default=True, help="Edges above them.")
@click.option("--tree", metavar="AxBxN", default="", help="Masters on each level, and nodes below each lowest one.")
@click.option("--rounds", type=click.IntRange(1), help="Instead of what job.toml says.")
@click.option("--seed", type=int, help="Instead of what job.toml says.")
@click.option("--stragglers", type=SHARE, default=0.0, help="Share of a round's nodes that are too slow for it.")
@click.option(
    "--judge", type=click.IntRange(0), default=0, metavar="N", help="Judge the model on all test data every N rounds."
)
@click.option(
    "--data", default=lambda: os.environ.get("MSRT_DATA", ""), metavar="DIR",
    help="What nodes find as their data. Default: $MSRT_DATA.",
)  # fmt: skip
@click.option("--report", type=FILE, help="Write the report (JSON) there, as `msrt train run` does.")
@click.option("--csv", type=FILE, help="Write the curves there, a line a round.")
@json_option
def simulate(folder: Path, report: Path | None, csv: Path | None, *, as_json: bool, **options: object) -> None:
    """Try out the job in FOLDER, in this process.

    Cloud, regions and nodes are the code that runs in a tree. Training, compression, sums, rounds and what is sent
    are the real ones; there is no network and no time: nobody is late but by --stragglers, and `seconds` are those
    of this process. Nothing is published. FOLDER's code runs here, as you and without the limits of a node. --tree
    2x4x8 stands for --nodes and --regions: 2 masters below the cloud, 4 below each of them, 8 nodes below each of
    these; a tree of machines has one level of masters today.
    """
    check_folders(report, csv)
    asked = msgspec.convert(options, Asked)
    config = asked.changed(pack(folder).config)
    with _told():
        job = _open(config, folder, asked)
        try:
            _run(job, asked.judge, quiet=as_json)
        finally:
            found = job.report()
            if report and job.lines:
                write_json(report, found)
            if csv and job.lines:
                write_csv(csv, found)
    if as_json:
        print_json(found)
    else:
        _show(job, found)


class Asked(msgspec.Struct, frozen=True):
    """The options."""

    nodes: int
    regions: int
    tree: str
    rounds: int | None
    seed: int | None
    stragglers: float
    judge: int
    data: str

    def changed(self, config: JobConfig) -> JobConfig:
        """What job.toml says, but for the options."""
        found = {name: getattr(self, name) for name in ("rounds", "seed")}
        return msgspec.structs.replace(config, **{name: value for name, value in found.items() if value is not None})


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What user code raises is shown where it was raised, then named in one sentence."""
    try:
        yield
    except errors.MsrtError:
        raise
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        raise errors.JobFailed(f"the task raised {type(error).__name__}: {error}") from error


def _open(config: JobConfig, sources: Path, asked: Asked) -> Simulation:
    """Raises InvalidJob, and LocalError where there is no torch."""
    try:
        import torch  # noqa: PLC0415 - it costs a second: this command alone pays it

        from msrt.training.local import Local, load_task  # noqa: PLC0415
        from msrt.training.simulation import Chances, Shape, Simulation, parse_shape  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise errors.LocalError(f"this machine has no {error.name}", hint="pip install 'msrt[train]'") from error
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # as in a node's process
    local = Local(load_task(config.task, sources, config.options), config)
    now, wall = time.monotonic, time.time  # noqa: TID251 - nothing here runs under virtual time
    shape = parse_shape(asked.tree) if asked.tree else Shape((asked.regions,), asked.nodes)
    return Simulation(local, shape, now, wall, asked.data, Chances(asked.stragglers))


def _run(job: Simulation, judge: int, *, quiet: bool) -> None:
    with _progress(job, quiet=quiet) as show:
        for line in job.run():
            if judge and line["round"] % judge == 0:
                line["judged"] = job.judge()
            show()
        job.finish()


@contextlib.contextmanager
def _progress(job: Simulation, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Bars on a terminal, a line a round elsewhere, both on standard error."""
    if quiet:
        yield lambda: None
        return
    if not console().is_terminal:
        yield lambda: click.echo(_line(job), err=True)
        return
    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        yield lambda: live.update(view(_row(job, "running"), job.lines), refresh=True)


def _row(job: Simulation, state: str) -> dict[str, Any]:
    """As of a real job's status."""
    up, down = (sum(line[name] for line in job.lines) for name in ("bytes_up", "bytes_down"))
    return {
        "job": job.config.name, "state": state, "round": len(job.lines), "rounds": job.config.rounds, "expected": 0,
        "reported": 0, "bytes_up": up, "bytes_down": down, "reason": "", "stragglers": [],
    }  # fmt: skip


def _line(job: Simulation) -> str:
    last = job.lines[-1]
    known = [("loss", last["loss"]), ("accuracy", last["accuracy"]), ("judged", last.get("judged", {}).get("accuracy")),
             ("epsilon", last.get("epsilon"))]  # fmt: skip
    shown = " ".join(f"{name}={value:.4f}" for name, value in known if value is not None)
    traffic = f"up {size(last['bytes_up'])} down {size(last['bytes_down'])}"
    return f"{job.config.name}: {last['round']}/{job.config.rounds} {last['nodes']} nodes {shown} {traffic}"


def _show(job: Simulation, found: dict[str, Any]) -> None:
    row = _row(job, found["state"])
    seconds = sum(line["seconds"] for line in job.lines)
    more = {
        "reason": found["reason"],
        "up": size(row["bytes_up"]),
        "down": size(row["bytes_down"]),
        "seconds": seconds,
        "nodes": job.shape.nodes,
    }
    shown = row | more | {key: found[key] for key in ("accuracy", "alone_mean", "pooled", "epsilon")}
    columns = [name for name in COLUMNS if shown[name] not in (None, "")]
    table(columns, [shown], empty="")
