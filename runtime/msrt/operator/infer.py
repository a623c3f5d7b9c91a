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

__all__ = ["infer"]

NUMPY: Final = b"\x93NUMPY"
ZIP: Final = b"PK"
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
@click.option("--output", "outputs", multiple=True, help="Only this output; may be repeated.")
@json_option
@state_option
def infer(state: Path | None, name: str, source: Any, *, as_json: bool, **options: Any) -> None:
    """Ask MODEL about INPUT and print the answer.

    MODEL is [NAMESPACE/]NAME[@VERSION]; without a version, what is rolled out.

    INPUT is a .npy array, an .npz with one array per input, or JSON: numbers in lists, or an object with one such list
    per input; - reads standard input. Axis 0 are the rows; one row may come without it.

    Without --url the edges of the tree are asked under the identity in --state. An http:// address on loopback needs
    no identity.
    """
    inputs = read_input(source.read())

    async def ask() -> Answer:
        async with AsyncClient(
            options["urls"], state=state, key=options["key"], fingerprint=options["pins"], ca=options["ca"]
        ) as client:
            return await client.infer(name, inputs, deadline=options["deadline"], outputs=options["outputs"])

    answer = run(ask())
    found = {name: array.tolist() for name, array in answer.items()}
    if as_json:
        by = {"version": answer.version, "variant": answer.variant, "device": answer.device}
        print_json({**by, "outputs": found})
        return
    rows = [
        {"output": name, "shape": list(array.shape), "values": _some(array.ravel().tolist())}
        for name, array in answer.items()
    ]
    table(["output", "shape", "values"], rows, empty="no outputs")
    console().print(f"{answer.variant}@{answer.version} on {answer.device}")


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
