"""`msrt train export`: a job's curves as CSV and as TensorBoard's event files; its report as JSON."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from msrt import errors
from msrt.operator.session import ask, state_option
from msrt.operator.train_nodes import report_of

__all__ = ["COLUMNS", "FILE", "as_csv", "export", "write_boards", "write_csv", "write_json"]

FILE = click.Path(dir_okay=False, path_type=Path)
DIRECTORY = click.Path(file_okay=False, path_type=Path)
COLUMNS: Final = ("round", "loss", "accuracy", "worst_decile", "seconds", "bytes_up", "bytes_down", "nodes",
                  "asked", "eligible", "work", "clipped", "late", "failed", "absent", "update_bytes", "epsilon",
                  "delta", "wall")  # fmt: skip
SCALARS: Final = ("loss", "accuracy", "worst_decile", "seconds", "bytes_up", "bytes_down", "nodes", "late", "failed",
                  "absent", "asked", "eligible", "work", "clipped", "epsilon")  # fmt: skip


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option("--csv", "csv_file", type=FILE, help="The curves of one JOB, a line a round.")
@click.option("--report", type=FILE, help="The report of one JOB, JSON.")
@click.option(
    "--boards", type=DIRECTORY, help="A folder for TensorBoard: a run in it for each JOB. Needs msrt[boards]."
)
@state_option
def export(
    state: Path | None, jobs: tuple[str, ...], csv_file: Path | None, report: Path | None, boards: Path | None
) -> None:
    """Write the curves of jobs to files.

    `msrt train export JOB... --boards DIR`, then `tensorboard --logdir DIR`, draws them in one picture.
    """
    if not (csv_file or report or boards):
        raise errors.CallerError("nothing to write", hint="give --csv FILE, --report FILE or --boards DIR")
    if len(jobs) > 1 and (csv_file or report):
        raise errors.CallerError("--csv and --report are files of one job", hint="--boards takes several")
    for job in jobs:
        found = ask(state, lambda cloud, job=job: report_of(cloud, job))  # type: ignore[misc]
        if csv_file:
            write_csv(csv_file, found)
        if report:
            write_json(report, found)
        if boards:
            write_boards(boards / job, found)


def counted(line: dict[str, Any]) -> dict[str, Any]:
    """A round's line in numbers: lists of nodes as how many they are."""
    return {key: len(value) if isinstance(value, dict | list) else value for key, value in line.items()}


def as_csv(report: dict[str, Any]) -> str:
    """A header, and a line a round; what is not known is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(counted(line) for line in report["rounds"])
    return text.getvalue()


def write_csv(path: Path, report: dict[str, Any]) -> None:
    """Raises LocalError."""
    _write(path, as_csv(report).encode(), "curves")


def write_json(path: Path, report: object) -> None:
    """Raises LocalError."""
    _write(path, msgspec.json.format(msgspec.json.encode(report), indent=2), "report")


def _write(path: Path, data: bytes, what: str) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise errors.LocalError(f"the {what} cannot be written to {path}: {error.strerror}") from error


def write_boards(folder: Path, report: dict[str, Any]) -> None:
    """One run: a scalar for each number of each round, at the time when the round ended. Raises LocalError.

    An export of before is replaced: TensorBoard would draw both.
    """
    try:
        from tensorboard.compat.proto import event_pb2, summary_pb2  # noqa: PLC0415 - an extra of who wants it
        from tensorboard.summary.writer.event_file_writer import EventFileWriter  # noqa: PLC0415
    except ImportError as error:
        raise errors.LocalError("TensorBoard is not installed", hint="pip install 'msrt[boards]'") from error
    try:
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        writer = EventFileWriter(str(folder))
    except OSError as error:
        raise errors.LocalError(f"the curves cannot be written to {folder}: {error.strerror}") from error
    for line in map(counted, report["rounds"]):
        values = [
            summary_pb2.Summary.Value(tag=name, simple_value=float(line[name]))
            for name in SCALARS
            if isinstance(line.get(name), int | float)
        ]
        summary = summary_pb2.Summary(value=values)
        writer.add_event(event_pb2.Event(wall_time=line.get("wall", 0.0), step=line["round"], summary=summary))
    writer.close()
