"""`msrt model`: push, list, show, rollout, rollback; policy and shadow beside."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import click

from msrt import errors
from msrt.operator.model_show import print_model, print_tried
from msrt.operator.policy import policy, shadow
from msrt.operator.session import Ask, ask, patient, state_option
from msrt.operator.show import console, json_option, print_json, progress, table, warn
from msrt.operator.stats import stats
from msrt.protocol.address import ModelName

__all__ = ["model"]

PUSH_S = 900.0
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def model() -> None:
    """Models: push to the registry, roll out to devices, roll back, say how they are served."""


@model.command()
@click.argument("file", type=FILE)
@click.option("--name", required=True, help="Model name, [NAMESPACE/]NAME. The first push of a name is version 1.")
@click.option("--calibrate", type=FILE, help="X.npy: inputs for quantisation, rows along axis 0.")
@click.option("--eval", "evaluate", type=FILE, help="XY.npz with x and y: labelled inputs for the quality gate.")
@click.option("--max-drop", type=float, default=0.01, show_default=True, help="Accuracy int8 may lose against fp32.")
@click.option("--min-accuracy", type=float, default=0.0, help="Refuse a model below this accuracy.")
@click.option(
    "--require", type=click.Choice(["int8"]), help="Serve int8 whatever its speed; fail if it fails the gate."
)
@click.option(
    "--keeps", "states", multiple=True, metavar="IN=OUT",
    help="A tensor that the model hands from call to call, kept for each sequence on its device; once for each. "
    "Default: found by their names. `none`: it keeps nothing.",
)  # fmt: skip
@click.option("--pre", type=FILE, help="ONNX graph that runs before it, in the same call: its inputs are a request's.")
@click.option("--post", type=FILE, help="ONNX graph that runs after it: its outputs are the answer.")
@click.option("--labels", type=FILE, help="Text file, one class name a line.")
@click.option("--for", "device_class", type=click.Choice(["mcu"]), help="Refuse it unless microcontrollers can run it.")
@json_option
@state_option
def push(state: Path | None, *, as_json: bool, file: Path, **options: Any) -> None:
    """Check, quantise, gate and register an ONNX file.

    It becomes the next version of the model. int8 is made beside fp32 and judged: on --eval by accuracy, else by
    agreement on --calibrate. What is served on which kind of device is chosen by measured speed, unless --require says.
    With --pre, both files hold what that takes; with --post, what that gives is judged. A blob for
    microcontrollers is made of int8 where their operators suffice; the report says what it needs, or which operator
    is missing. Nothing runs before `msrt model rollout`.
    """

    async def work(cloud: Ask) -> Any:
        params: dict[str, object] = {"name": options["name"], "file": await cloud.upload(file), "file_name": file.name}
        for key, option in (("calibrate", "calibrate"), ("eval", "evaluate"), ("pre", "pre"), ("post", "post")):
            if options[option]:
                params[key], params[f"{key}_name"] = await cloud.upload(options[option]), options[option].name
        if options["labels"]:
            params["labels"] = _lines(options["labels"])
        params |= {"max_drop": options["max_drop"], "min_accuracy": options["min_accuracy"]}
        params["require"], params["device_class"] = options["require"] or "", options["device_class"] or ""
        if options["states"]:
            params["state"] = list(options["states"])
        return await cloud("model.push", PUSH_S, **params)

    result = ask(state, work)
    if as_json:
        print_json(result)
        return
    report = result["report"]
    console().print(f"{result['model']}@{result['version']}")
    rows = ({"what": key, "value": value} for key, value in report.items() if key != "tried")
    table(["what", "value"], rows, empty="no report")
    print_tried(report)
    console().print(f"\nTo serve it: msrt model rollout {result['model']}@{result['version']}")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise errors.CallerError(f"{path} is no text in UTF-8", hint="write one class name a line") from None


@model.command(name="list")
@json_option
@state_option
def list_models(state: Path | None, *, as_json: bool) -> None:
    """All models, their versions, and what is rolled out."""
    rows = ask(state, lambda cloud: cloud("model.list"))
    if as_json:
        print_json(rows)
    else:
        columns = ["model", "versions", "serving", "rollout", "canary", "selector", "ready"]
        table(columns, rows, empty="no model yet: msrt model push FILE --name NAME")


@model.command()
@click.argument("name")
@json_option
@state_option
def show(state: Path | None, name: str, *, as_json: bool) -> None:
    """Inputs, outputs, graphs around it, labels, variants and gate report of NAME[@VERSION]."""
    wanted = ModelName.parse(name)
    found = ask(state, lambda cloud: cloud("model.show", model=wanted.name, version=wanted.version))
    if as_json:
        print_json(found)
    else:
        print_model(found)


@model.command()
@click.argument("name")
@click.option("--canary", default="", help="A region, or a share such as 20%, that gets it first.")
@click.option(
    "--traffic", default="", help="A share such as 5% of the requests goes to it, and what they show decides."
)
@click.option("--to", "selector", default="", help="Label selector: site=a,class=arm64,region=north. Default: all.")
@click.option("--window", default=0.0, help="Seconds of readiness and health before it goes on. Default: the cloud's.")
@click.option("--timeout", default=180.0, show_default=True, help="Seconds to wait here; the rollout goes on without.")
@click.option("--no-wait", is_flag=True, help="Record it and return.")
@json_option
@state_option
def rollout(state: Path | None, name: str, *, as_json: bool, **options: Any) -> None:
    """Bring NAME[@VERSION] to the devices, canary first.

    It goes on when healthy, and back by itself when not. With --traffic it is loaded beside what serves, and goes on or
    back by a sequential test of its errors, its slow answers and (where it is the model's shadow) its disagreement with
    what serves: the cloud's settings rollout_* say how sure it has to be. It is desired state: recorded at once,
    followed here until it is through. With no matching device it is recorded all the same, and devices that join later
    get it. The exit status is 1 when it was rolled back.
    """
    wanted = ModelName.parse(name)

    async def work(cloud: Ask) -> Any:
        begun = await cloud(
            "model.rollout", model=wanted.name, version=wanted.version, canary=options["canary"],
            selector=options["selector"], window_s=options["window"], **_traffic(options["traffic"]),
        )  # fmt: skip
        _of_boards(begun.get("boards", {}))
        if begun["matching"] == 0 or options["no_wait"]:
            return begun
        return await _follow(cloud, begun, options["timeout"])

    result = ask(state, work)
    if as_json:
        print_json(result)
    else:
        line = f"{result['model']}@{result['version']} {result['state']}"
        console().print(f"{line}: {result['reason']}" if result.get("reason") else line)
    if result["matching"] == 0:
        warn("no device matches; it is recorded, and devices that join later get it")
    if result["state"] == "rolled_back":
        raise errors.Unavailable(f"{result['model']}@{result['version']} was rolled back: {result['reason']}")


def _of_boards(found: dict[str, list[str]]) -> None:
    """What becomes of other models on microcontrollers."""
    if names := ", ".join(found.get("replaced", ())):
        warn(f"a microcontroller holds one model: those that match let go of {names}")
    if names := ", ".join(found.get("kept", ())):
        warn(f"a microcontroller holds one model: some that match keep {names}, whose rollout names its devices")


def _traffic(text: str) -> dict[str, object]:
    if not text:
        return {}
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = math.nan
    if not text.endswith("%") or not 0 < share <= 0.99:
        raise errors.CallerError(f"--traffic {text!r} is no share of the requests", hint="write 1% to 99%")
    return {"traffic": share}


def _evidence(now: dict[str, Any]) -> str:
    """What is known of a canary, in a line."""
    said = [f"{e['what']} {e['share']:.1%} of {e['of']} ({e['finding']})" for e in now.get("evidence", ())]
    return "  ".join([now["state"], *(said if now["state"] == "canary" else ()), *now.get("troubles", ())[:1]])


async def _follow(cloud: Ask, begun: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    until = asyncio.get_running_loop().time() + timeout_s
    with progress(f"rollout {begun['model']}@{begun['version']}", begun["matching"]) as advance:
        while True:
            now = await patient(cloud, "model.rollout.status", model=begun["model"])
            if now["version"] != begun["version"]:
                raise errors.Conflict(f"{begun['model']}@{now['version']} took the place of this rollout")
            advance(now["ready"], _evidence(now))
            if now["state"] in ("done", "rolled_back"):
                return {**begun, **now}
            if asyncio.get_running_loop().time() > until:
                raise errors.DeadlineExceeded(
                    f"the rollout is still {now['state']} after {timeout_s:g} s", hint="it goes on: msrt model list"
                )
            await asyncio.sleep(0.2)


@model.command()
@click.argument("name")
@state_option
def rollback(state: Path | None, name: str) -> None:
    """Return NAME to the version before the present one."""
    result = ask(state, lambda cloud: cloud("model.rollback", model=ModelName.parse(name).name))
    console().print(f"{result['model']}@{result['version']} serves again")


model.add_command(policy)
model.add_command(stats)
model.add_command(shadow)
