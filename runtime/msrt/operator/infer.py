"""`msrt infer`: one question from the command line."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from msrt import errors
from msrt.client import Answer, AsyncClient
from msrt.operator.session import run, state_option
from msrt.operator.show import console, json_option, print_json, table
from msrt.operator.traced import new_trace, other_marks, trace_lines
from msrt.telemetry.otlp import collector_of
from msrt.telemetry.spans import CHOSEN

__all__ = ["infer"]

NUMPY: Final = b"\x93NUMPY"
ZIP: Final = b"PK"
PRIORITIES: Final = {"urgent": 1, "normal": 0, "background": -1}
SHOWN: Final = 6
"""Values of an output that a table shows."""


@click.command()
@click.argument("name", metavar="MODEL")
@click.argument("source", metavar="INPUT", type=click.File("rb"))
@click.option("--url", "urls", multiple=True, help="An edge: http[s]://HOST:PORT or tcp://HOST:PORT; may be repeated.")
@click.option("--key", default="", envvar="MSRT_KEY", help="API key for http off loopback (msrt key create).")
@click.option("--fingerprint", "pins", multiple=True, help="SHA-256 of an edge's own certificate; may be repeated.")
@click.option("--ca", default="", help="PEM file of the authorities to believe, instead of the system's.")
@click.option("--deadline", default=10.0, show_default=True, help="Seconds to wait for an answer.")
@click.option("--output", "--outputs", "outputs", multiple=True, help="Only this output; may be repeated.")
@click.option(
    "--priority", type=click.Choice(list(PRIORITIES)), default="normal", show_default=True,
    help="Who goes first where requests wait.",
)  # fmt: skip
@click.option("--sequence", "steps", is_flag=True, help="Each row of INPUT is one step of a sequence.")
@click.option("--top", type=click.IntRange(1), help="Show so many classes of each row by name, not the tensors.")
@click.option("--trace", is_flag=True, help="Have it traced; print the trace's id and where the time went.")
@json_option
@state_option
def infer(state: Path | None, name: str, source: Any, *, as_json: bool, **options: Any) -> None:
    """Ask MODEL about INPUT and print the answer.

    MODEL is [NAMESPACE/]NAME[@VERSION]; without a version, what is rolled out.

    INPUT is a .npy array, an .npz with one array per input, or JSON: numbers in lists, or an object with one such list
    per input; - reads standard input. Axis 0 are the rows; one row may come without it.

    --trace sends a span to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names, if it does.

    --sequence is for models that keep state between requests: the rows are asked one after the other, of one device.

    Without --url the edges of the tree are asked under the identity in --state. An http:// address on loopback needs
    no identity.
    """
    inputs = read_input(source.read())
    if options["steps"] and options["top"]:
        raise errors.CallerError("--sequence and --top do not go together")
    if options["trace"] and (options["steps"] or options["top"]):
        raise errors.CallerError("--trace is for one answer", hint="leave out --sequence and --top")
    collector = collector_of("") if options["trace"] else ""
    trace = (CHOSEN if collector else new_trace()) if options["trace"] else ""

    async def ask() -> list[Any]:
        async with AsyncClient(
            options["urls"], state=state, key=options["key"], fingerprint=options["pins"], ca=options["ca"],
            deadline_s=options["deadline"], trace=collector,
        ) as client:  # fmt: skip
            priority, outputs = PRIORITIES[options["priority"]], options["outputs"]
            if options["top"]:
                output = outputs[0] if outputs else ""
                return await client.classify(name, inputs, top=options["top"], output=output, priority=priority)
            if not options["steps"]:
                return [await client.infer(name, inputs, outputs=outputs, priority=priority, trace=trace)]
            async with client.sequence(name, outputs=outputs, priority=priority) as sequence:
                rows = steps_of(inputs)
                return [await sequence.infer(row, end=row is rows[-1]) for row in rows]

    found = run(ask())
    if options["top"]:
        _print_classes(found, as_json=as_json)
    elif as_json:
        shown = [_plain(answer) for answer in found]
        print_json(shown if options["steps"] else shown[0])
    else:
        _print(found, steps=options["steps"])
        if options["trace"]:
            click.echo("\n".join(trace_lines(trace, found[0].seconds, found[0].device, found[0].marks)))


def steps_of(inputs: Any) -> list[Any]:
    """The rows of the input, each with its axis. Raises CallerError."""
    import numpy as np  # noqa: PLC0415 - see read_input

    named = inputs if isinstance(inputs, dict) else {"": inputs}
    arrays = {name: np.asarray(value) for name, value in named.items()}
    counts = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(counts) != 1 or not min(counts):
        raise errors.CallerError("a sequence needs inputs with as many rows each, one for each step")
    rows = [
        {
            name: array[n : n + 1] if isinstance(named[name], np.ndarray) else array[n : n + 1].tolist()
            for name, array in arrays.items()
        }
        for n in range(counts.pop())
    ]
    return rows if isinstance(inputs, dict) else [row[""] for row in rows]


def _plain(answer: Answer) -> dict[str, Any]:
    by = {"version": answer.version, "variant": answer.variant, "device": answer.device, "seconds": answer.seconds}
    return {**by, "marks": dict(answer.marks), "outputs": {name: array.tolist() for name, array in answer.items()}}


def _print(answers: list[Any], *, steps: bool) -> None:
    rows = [
        {"step": n, "output": name, "shape": list(array.shape), "values": _some(array.ravel().tolist())}
        for n, answer in enumerate(answers, 1)
        for name, array in answer.items()
    ]
    table(["step"] * steps + ["output", "shape", "values"], rows, empty="no outputs")
    last = answers[-1]
    marks = "".join(f", {name} {value}" for name, value in other_marks(last.marks).items())
    console().print(f"{last.variant}@{last.version} on {last.device} in {last.seconds * 1000:.1f} ms{marks}")


def _print_classes(found: list[Any], *, as_json: bool) -> None:
    if as_json:
        print_json([[label._asdict() for label in row] for row in found])
        return
    rows = [
        {"row": n, "class": label.label, "score": f"{label.score:.4g}"} for n, row in enumerate(found) for label in row
    ]
    table(["row", "class", "score"], rows, empty="no classes")


def _some(values: list[Any]) -> str:
    shown = " ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in values[:SHOWN])
    return f"{shown} ... ({len(values)} in all)" if len(values) > SHOWN else shown


def read_input(data: bytes) -> Any:
    """An array, or arrays by name. Raises CallerError."""
    import numpy as np  # noqa: PLC0415 - other commands start without it

    if data.startswith((NUMPY, ZIP)):
        try:
            loaded = np.load(io.BytesIO(data), allow_pickle=False)
            return loaded if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
        except (ValueError, OSError, EOFError) as error:
            raise errors.CallerError(f"the input cannot be read as numpy: {error}") from error
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.CallerError(f"the input is neither .npy, .npz nor JSON: {error}") from error
    if isinstance(found, dict) and isinstance(found.get("inputs"), list):
        return {tensor.get("name", ""): _tensor(tensor) for tensor in found["inputs"] if isinstance(tensor, dict)}
    if not isinstance(found, list | dict):
        raise errors.CallerError("the input must be a list of numbers, or an object with one per input")
    return found


def _tensor(tensor: dict[str, Any]) -> Any:
    """One input of an Open Inference Protocol body."""
    import numpy as np  # noqa: PLC0415 - see read_input

    try:
        return np.asarray(tensor["data"]).reshape(tensor["shape"]).tolist()
    except (KeyError, TypeError, ValueError) as error:
        raise errors.CallerError(f"input {tensor.get('name', '')!r} contradicts itself: {error}") from error
