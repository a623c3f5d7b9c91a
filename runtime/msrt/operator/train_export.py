"""`msrt train export`: a job's curves as CSV and TensorBoard's event files, its report as JSON, its model as ONNX."""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from msrt import errors
from msrt.operator.session import Ask, ask, state_option
from msrt.operator.train_nodes import report_of

__all__ = ["COLUMNS", "FILE", "as_csv", "check_folders", "export", "write_boards", "write_csv", "write_json"]

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
    "--boards",
    type=DIRECTORY,
    metavar="DIR",
    help="A folder for TensorBoard: a run in it for each JOB. Needs msrt[boards].",
)
@click.option("--onnx", type=FILE, help="The model of one JOB, after its last round.")
@click.option(
    "--node", default="", help="With --onnx: as this node has it, with the layers that [train] keep_local keeps there."
)
@state_option
def export(
    state: Path | None, jobs: tuple[str, ...], csv_file: Path | None, report: Path | None, boards: Path | None,
    onnx: Path | None, node: str,
) -> None:  # fmt: skip
    """Write the curves of jobs, or the model of one, to files.

    `msrt train export JOB... --boards DIR`, then `tensorboard --logdir DIR`, draws them in one picture.

    `msrt train export JOB --onnx FILE --node NAME` is the one way by which layers of its own leave a node.
    """
    if not (csv_file or report or boards or onnx):
        raise errors.CallerError("nothing to write", hint="give --csv FILE, --report FILE, --boards DIR or --onnx FILE")
    if len(jobs) > 1 and (csv_file or report or onnx):
        raise errors.CallerError("--csv, --report and --onnx are files of one job", hint="--boards takes several")
    if node and not onnx:
        raise errors.CallerError("--node says whose model is wanted", hint="give --onnx FILE as well")
    if onnx:
        _write(onnx, ask(state, lambda cloud: model_of(cloud, jobs[0], node)), "model")
    for job in jobs if csv_file or report or boards else ():
        found = ask(state, lambda cloud, job=job: report_of(cloud, job))  # type: ignore[misc]
        if csv_file:
            write_csv(csv_file, found)
        if report:
            write_json(report, found)
        if boards:
            write_boards(boards / job, found)
    for written in filter(None, (onnx, csv_file, report)):
        click.echo(f"wrote {written}", err=True)
    if boards:
        click.echo(f"wrote {len(jobs)} run{'s' if len(jobs) > 1 else ''}: tensorboard --logdir {boards}", err=True)


async def model_of(cloud: Ask, job: str, node: str) -> bytes:
    """ONNX of a job's model, or of a node's own."""
    made = await cloud("train.export", 330.0, job=job, node=node)
    data = b""
    while len(data) < made["size"]:
        part = await cloud("train.part", digest=made["digest"], node=node, offset=len(data))
        if not part["data"]:
            raise errors.Corrupt(f"the model of {job} ends after {len(data)} of {made['size']} bytes")
        data += part["data"]
    if hashlib.sha256(data).hexdigest() != made["digest"]:
        raise errors.Corrupt(f"the model of {job} came damaged", hint="export it again")
    return data


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


def check_folders(*files: Path | None) -> None:
    """Before hours of training and not after them. Raises LocalError where one could not be written."""
    for file in files:
        if file is not None and not file.parent.is_dir():
            raise errors.LocalError(f"{file} cannot be written: there is no folder {file.parent}")


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
