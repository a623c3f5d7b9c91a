"""`msrt update`: images over the air, brought to devices group by group."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any, Final

import click

from msrt import errors
from msrt.artifacts.images import Kind
from msrt.operator.session import Ask, ask, state_option
from msrt.operator.show import console, json_option, print_json, table

__all__ = ["update"]

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
PUSH_S: Final = 900.0
NEEDED: Final = {
    Kind.AGENT: (("agent.py",), "make an agent's image by msrt device pack-agent -o FILE"),
    Kind.SYSTEM: (
        ("system.json", "root.img"),
        "make a system's image by msrt device image NAME -o BASE --set update=FILE",
    ),
}
"""What devices have slots for, the files without which such an image is none, and how to make one."""


@click.group()
def update() -> None:
    """Agents and systems over the air.

    A microcontroller's models come so, too; its firmware does not. Push an image, roll it out group by group, stop it.
    """


@update.command()
@click.argument("file", type=FILE)
@click.option("--kind", required=True, type=click.Choice([kind.value for kind in NEEDED]), help="What it replaces.")
@click.option("--version", required=True, help="Its version: letters, digits and . _ + -")
@click.option(
    "--class", "classes", default="*", show_default=True, metavar="PATTERN",
    help="Device classes that it is for (see msrt node list), such as 'x86_64-*'. A version may have one for each.",
)  # fmt: skip
@click.option(
    "--request", "request", type=click.Path(dir_okay=False, path_type=Path),
    help="Its key is elsewhere: write what is to be signed there. To a request that is there already it is added.",
)  # fmt: skip
@click.option("--signed", type=FILE, help="That file, signed (msrt cloud keys sign): check it, and register the image.")
@json_option
@state_option
def push(
    state: Path | None, *, as_json: bool, file: Path, kind: str, version: str, classes: str,
    request: Path | None, signed: Path | None,
) -> None:  # fmt: skip
    """Register an image.

    An agent's is made by `msrt device pack-agent`, a system's by `msrt device image NAME --set update=FILE`. Nothing
    changes before `msrt update rollout`.
    """
    if request and signed:
        raise errors.CallerError("--request is what is to be signed, --signed what was", hint="give one of them")
    _check(file, Kind(kind))
    params = {"kind": kind, "version": version, "classes": classes}
    there = request.read_bytes() if request and request.exists() else b""
    brought = signed.read_bytes() if signed else b""

    async def work(cloud: Ask) -> Any:
        if brought:
            await cloud("trust.accept", PUSH_S, request=brought)
        digest = await cloud.upload(file)
        if request:
            return await cloud("update.request", PUSH_S, digest=digest, base=there, **params)
        return await cloud("update.push", PUSH_S, digest=digest, **params)

    found = ask(state, work)
    if request:
        request.write_bytes(found)
        console().print(f"{request}: msrt cloud keys sign {request.name} --key KEY, where the key is")
    elif as_json:
        print_json(found)
    else:
        console().print(f"{found['name']} for {found['classes']}: {found['size']} bytes")


def _check(file: Path, kind: Kind) -> None:
    """What no device could start need not be sent. Raises InvalidImage."""
    needed, hint = NEEDED[kind]
    try:
        with tarfile.open(file) as archive:
            found = set(archive.getnames())
    except tarfile.TarError as error:
        raise errors.InvalidImage(f"{file} is no whole tar file", hint=hint) from error
    for name in needed:
        if name not in found:
            raise errors.InvalidImage(f"{file} has no {name}", hint=hint)


@update.command(name="list")
@json_option
@state_option
def list_images(state: Path | None, *, as_json: bool) -> None:
    """All images."""
    rows = ask(state, lambda cloud: cloud("update.images"))
    if as_json:
        print_json(rows)
    else:
        table(["name", "classes", "size", "by", "digest"], rows, empty="no image yet: msrt update push FILE --kind K")


@update.command()
@click.argument("name", metavar="KIND@VERSION")
@click.option(
    "--groups", default="1", show_default=True,
    help="Growing shares of the devices, the last one 1: .05,.25,1. Each group begins when the one before succeeded.",
)  # fmt: skip
@click.option(
    "--success",
    default=0.95,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of a group that must come to run it.",
)
@click.option(
    "--errors",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="More than this share of the devices, and it stops.",
)
@click.option(
    "--soak",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds that a group is watched before the next begins.",
)
@click.option(
    "--deadline", default=3600.0, show_default=True, type=click.FloatRange(0, min_open=True),
    help="Seconds for one device; then it is an error.",
)  # fmt: skip
@click.option("--to", "selector", default="", help="Label selector: site=a,region=north. Default: all.")
@json_option
@state_option
def rollout(state: Path | None, name: str, *, as_json: bool, **options: Any) -> None:
    """Bring an image to devices. It goes on, and stops when too many fail, without this command.

    A device keeps what it runs until the new one has been welcomed by its edge and its models answered a test; else it
    goes back by itself. A device follows the newest update that has come to its group.
    """
    params = {key: options[key] for key in ("success", "errors", "selector")}
    params |= {"groups": _shares(options["groups"]), "soak_s": options["soak"], "deadline_s": options["deadline"]}
    found = ask(state, lambda cloud: cloud("update.rollout", name=name, **params))
    if as_json:
        print_json(found)
    else:
        count, groups = found["matching"], len(found["groups"])
        many = f"{count} device matches" if count == 1 else f"{count} devices match"
        console().print(f"{found['name']}: {many}, in {groups} group{'s' if groups > 1 else ''}")
        if not count:
            console().print("none that is here now: msrt node list, msrt update list; it waits for those that come")


def _shares(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise errors.CallerError(f"{text!r} is no list of shares", hint="give .05,.25,1") from None


@update.command()
@click.argument("name", metavar="[KIND@VERSION]", default="")
@json_option
@state_option
def status(state: Path | None, name: str, *, as_json: bool) -> None:
    """How updates are; of one that is named every device: where it stands and why."""
    rows = ask(state, lambda cloud: cloud("update.status", name=name))
    if as_json:
        print_json(rows)
        return
    columns = ["name", "state", "group", "done", "errors", "devices", "selector", "reason"]
    table(columns, rows, empty="no update yet: msrt update rollout KIND@VERSION")
    for row in rows if name else ():
        table(["name", "group", "state", "version", "reason"], row["nodes"], empty="no device matches")


def _turn(what: str, help_text: str) -> None:
    @update.command(name=what, help=help_text)
    @click.argument("name", metavar="KIND@VERSION")
    @state_option
    def command(state: Path | None, name: str) -> None:
        found = ask(state, lambda cloud: cloud(f"update.{what}", name=name))
        console().print(f"{found['name']} is {found['state']}")


_turn("pause", "No further device begins, and none restarts for it.")
_turn("resume", "Go on with what was paused or stopped, whatever errors there were until now.")
_turn("stop", "Emergency stop: no device begins, those that have not committed go back.")
