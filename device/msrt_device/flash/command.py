"""`msrt device targets`, `image` and `flash`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from msrt.errors import CallerError, InvalidConfig
from msrt.operator.show import json_option, print_json, table
from msrt_device.flash.identity.flags import identity_options, settings_of
from msrt_device.flash.writing.medium import Medium

__all__ = ["flash", "image", "targets"]

lines_option = click.option(
    "--json", "as_json", is_flag=True, help="Print progress and result as JSON, an object a line."
)


@click.command()
@json_option
def targets(*, as_json: bool) -> None:
    """The boards that images can be made for: what each needs here, and what was verified of it."""
    from msrt_device.flash.targets import targets as known  # noqa: PLC0415 - --help stays quick

    rows = [
        {
            "name": one.name, "title": one.title, "needs": one.needs(), "verified": one.verified,
            "options": dict(one.options),
        }
        for one in known()
    ]  # fmt: skip
    if as_json:
        print_json(rows)
    else:
        table(["name", "title", "needs", "verified"], rows, empty="no target is installed")


@click.command()
@click.argument("name")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, dir_okay=False), required=True,
    help="Where to put it; .zst and .xz are packed. A block map comes beside it where there are holes.",
)  # fmt: skip
@click.option(
    "--set", "sets", multiple=True, metavar="OPTION=VALUE",
    help="An option of the target (msrt device targets --json); may be repeated.",
)  # fmt: skip
@lines_option
def image(name: str, output: Path, sets: tuple[str, ...], *, as_json: bool) -> None:
    """Make the base image of a board (msrt device targets): the same for all of its kind, without an identity."""
    from msrt_device.flash.build import build_image  # noqa: PLC0415 - --help stays quick
    from msrt_device.flash.report import report  # noqa: PLC0415
    from msrt_device.flash.targets import load_target  # noqa: PLC0415

    options = dict(_pair(one) for one in sets)
    with report(as_json=as_json) as said:
        built = build_image(load_target(name), options, output, said.progress)
        said.result(
            f"{built.path}: {built.size / 1e6:.1f} MB, {built.image_size / 1e6:.1f} MB on a medium, "
            f"{built.mapped / 1e6:.1f} MB to write; sha256 {built.sha256}",
            path=str(built.path), size=built.size, image_size=built.image_size, mapped=built.mapped,
            sha256=built.sha256,
        )  # fmt: skip


@click.command()
@click.argument("source", metavar="IMAGE", type=click.Path(path_type=Path))
@click.argument("target", metavar="TARGET", type=click.Path(path_type=Path), required=False)
@identity_options
@click.option("--identity-only", is_flag=True, help="The base is on the medium: give only TARGET, and an identity.")
@click.option("--yes", is_flag=True, help="Do not ask before what is on the medium is lost.")
@click.option("--force-non-removable", is_flag=True, help="Write to a disk that is built in.")
@click.option("--no-resume", is_flag=True, help="Begin anew where an earlier try was cut off.")
@click.option(
    "--bmap", type=click.Path(path_type=Path, exists=True), help="Block map. Default: IMAGE.bmap if it is there."
)
@lines_option
def flash(source: Path, target: Path | None, *, identity_only: bool, as_json: bool, **given: Any) -> None:
    """Write IMAGE (raw, .zst, .xz) to TARGET, a disk or a file, read it back, and compare every byte.

    With --invite or --identity the board's identity is written, too, and read back; without, none is.
    """
    from msrt_device.flash.flashing import Plan, give_identity  # noqa: PLC0415 - --help stays quick
    from msrt_device.flash.flashing import flash as write  # noqa: PLC0415
    from msrt_device.flash.report import report  # noqa: PLC0415

    settings = settings_of(given)
    plan = Plan(
        confirm=_confirm(yes=given["yes"]), force_non_removable=given["force_non_removable"],
        resume=not given["no_resume"], bmap=given["bmap"],
    )  # fmt: skip
    if identity_only:
        if target is not None or settings is None:
            raise click.UsageError("--identity-only takes TARGET alone, and --invite or --identity")
        with report(as_json=as_json) as said:
            give_identity(source, settings, plan)
            said.result(f"{source}: identity written and verified", target=str(source), identity=True, verified=True)
        return
    if target is None:
        raise click.UsageError("Missing argument 'TARGET'.")
    with report(as_json=as_json) as said:
        done = write(source, target, settings, plan, said.progress)
        what = "image and identity" if settings else "image"
        said.result(
            f"{target}: {what} written and verified, {done.size / 1e6:.1f} MB",
            target=str(target), size=done.size, wrote=done.wrote, resumed=done.resumed, ranges=done.ranges,
            identity=settings is not None, verified=True,
        )  # fmt: skip


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InvalidConfig(f"--set {text!r} has no '='", hint="write it as OPTION=VALUE")
    return key.strip(), value.strip()


def _confirm(*, yes: bool) -> Callable[[Medium], None]:
    def confirm(medium: Medium) -> None:
        if yes:
            return
        if not sys.stdin.isatty():
            raise CallerError(f"all that is on {medium.title} would be lost", hint="say --yes if that is meant")
        click.confirm(f"All that is on {medium.title} will be lost. Go on?", abort=True, err=True)

    return confirm
