"""`msrt device targets`, `image` and `flash`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from msrt.errors import CallerError, InvalidConfig
from msrt.operator.session import state_option
from msrt.operator.show import json_option, print_json, table
from msrt_device.flash.elsewhere import flash_elsewhere
from msrt_device.flash.identity.flags import common_of, identity_options, settings_of
from msrt_device.flash.writing.medium import Medium

if TYPE_CHECKING:
    from msrt_device.flash.flashing import Plan
    from msrt_device.flash.identity.settings import IdentitySettings

__all__ = ["flash", "image", "targets"]

lines_option = click.option(
    "--json", "as_json", is_flag=True, help="Print progress and result as JSON, an object a line."
)


@click.command()
@json_option
def targets(*, as_json: bool) -> None:
    """The boards that images can be made for.

    What each needs here, and what was verified of it.
    """
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
    """Make the base image of a board (`msrt device targets`).

    It is the same for all of its kind, without an identity.
    """
    from msrt_device.flash.build import build_image  # noqa: PLC0415 - --help stays quick
    from msrt_device.flash.report import report, size  # noqa: PLC0415
    from msrt_device.flash.targets import load_target  # noqa: PLC0415

    options = dict(_pair(one) for one in sets)
    with report(as_json=as_json) as said:
        built = build_image(load_target(name), options, output, said.progress)
        said.result(
            f"{built.path}: {size(built.size)}, {size(built.image_size)} on a medium, {size(built.mapped)} to write; "
            f"sha256 {built.sha256}",
            path=str(built.path), size=built.size, image_size=built.image_size, mapped=built.mapped,
            sha256=built.sha256,
        )  # fmt: skip


@click.command()
@click.argument("image", metavar="IMAGE")
@click.argument("place", metavar="TARGET", required=False)
@identity_options
@click.option("--identity-only", is_flag=True, help="The base is on the medium: give only TARGET, and an identity.")
@click.option(
    "--issue", is_flag=True,
    help="Spend the claim now, for a board that cannot at its first boot: it gets keys and a certificate.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask before what is on the medium is lost.")
@click.option("--force-non-removable", is_flag=True, help="Write to a disk that is built in.")
@click.option("--force-unknown-image", is_flag=True, help="Write a file that looks like no image.")
@click.option("--no-resume", is_flag=True, help="Begin anew where an earlier try was cut off.")
@click.option(
    "--bmap", type=click.Path(path_type=Path, exists=True), help="Block map. Default: IMAGE.bmap if it is there."
)
@click.option(
    "--count", type=int, help="A batch of so many boards: TARGET is a directory; --name and --serial begin theirs."
)
@click.option(
    "--boards", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A batch of the boards of this CSV: name, serial, label.KEY.",
)  # fmt: skip
@click.option("--csv", "manifest", type=click.Path(path_type=Path, dir_okay=False), help="The batch's manifest.")
@click.option("--region", default="", help="Of a batch's claims. Default: any edge.")
@click.option(
    "--ssh-config", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Of a TARGET over SSH: another file than ~/.ssh/config.",
)  # fmt: skip
@click.option(
    "--wait", type=click.IntRange(1, 3600), default=180, show_default=True,
    help="Of a TARGET over SSH: seconds until its agent has to be ready.",
)  # fmt: skip
@click.option(
    "--hours",
    default=0.0,
    type=click.FloatRange(0),
    help="How long a batch's claims may be used. Default: the cloud's setting.",
)
@state_option
@lines_option
def flash(image: str, place: str | None, *, as_json: bool, **given: Any) -> None:
    """Write IMAGE (raw, .zst, .xz) to TARGET, a disk or a file.

    It is read back, and every byte compared. TARGET may be a machine that runs Debian already,
    ssh://USER@HOST:PORT: IMAGE is then the agent's package (msrt device image generic-systemd), or the word
    generic-systemd for one that fits. It is installed and started there.

    TARGET may be a board on a serial line, /dev/ttyUSB0: IMAGE is then one of msrt device image micropython, files for
    a board that runs MicroPython (by mpremote), or the whole flash of an ESP32 (by esptool).

    With --invite or --identity the board's identity is written, too, and read back; without, none is. With --count or
    --boards a batch is made: images in the directory TARGET, or with --identity-only their identity files alone.
    """
    from msrt_device.flash.flashing import Plan, give_identity  # noqa: PLC0415 - --help stays quick
    from msrt_device.flash.flashing import flash as write  # noqa: PLC0415
    from msrt_device.flash.report import report, size  # noqa: PLC0415

    if flash_elsewhere(image, place, given, as_json=as_json):
        return
    source, target, identity_only = Path(image), Path(place) if place is not None else None, given["identity_only"]
    plan = Plan(
        confirm=_confirm("the identity" if identity_only else "all", yes=given["yes"]),
        force_non_removable=given["force_non_removable"],
        force_unknown_image=given["force_unknown_image"], resume=not given["no_resume"], bmap=given["bmap"],
        issue=given["issue"],
    )  # fmt: skip
    if identity_only == (target is not None):
        raise click.UsageError("--identity-only takes TARGET alone" if identity_only else "Missing argument 'TARGET'.")
    if given["count"] is not None or given["boards"] is not None:
        _batch(None if identity_only else source, target or source, plan, given, as_json=as_json)
        return
    if given["manifest"] is not None:
        raise click.UsageError("--csv is the manifest of a batch: say --count or --boards")
    for name in ("region", "hours"):
        if given[name]:
            raise click.UsageError(f"--{name} is of a batch's claims; one board's are as its invite was made")
    settings = settings_of(given)
    if given["issue"] and (settings is None or not settings.name):
        raise click.UsageError("--issue takes --invite and --name")
    with report(as_json=as_json) as said:
        if target is None:
            if settings is None:
                raise click.UsageError("--identity-only takes --invite or --identity")
            give_identity(source, settings, plan)
            said.result(f"{source}: identity written and verified", target=str(source), identity=True, verified=True)
            return
        done = write(source, target, settings, plan, said.progress)
        what = "image and identity" if settings else "image"
        said.result(
            f"{target}: {what} written and verified, {size(done.size)}",
            target=str(target), size=done.size, wrote=done.wrote, resumed=done.resumed, ranges=done.ranges,
            identity=settings is not None, verified=True,
        )  # fmt: skip


def _batch(base: Path | None, folder: Path, plan: Plan, given: dict[str, Any], *, as_json: bool) -> None:
    from msrt_device.flash.batch import boards_from, claims, make_batch, numbered  # noqa: PLC0415 - --help stays quick
    from msrt_device.flash.flashing import check_base  # noqa: PLC0415
    from msrt_device.flash.flashing import flash as write  # noqa: PLC0415
    from msrt_device.flash.report import report  # noqa: PLC0415

    if given["manifest"] is None or (given["count"] is not None) == (given["boards"] is not None):
        raise click.UsageError("a batch takes --count or --boards, and --csv for its manifest")
    if given["invite"] or given["identity"] is not None:
        raise click.UsageError("each board of a batch gets a claim of its own: leave out --invite and --identity")
    if given["issue"] and base is None:
        raise click.UsageError("--issue needs a medium for each board: leave out --identity-only")
    if given["count"] is not None:
        boards = numbered(given["count"], given["name"], given["serial"])
    else:
        boards = boards_from(given["boards"])
    if base is not None:
        check_base(base, plan)  # before the cloud makes claims for nothing

    def put(out: Path, settings: IdentitySettings) -> None:
        assert base is not None
        write(base, out, settings, plan, lambda *_: None)

    with report(as_json=as_json) as said:
        made = make_batch(
            boards, common_of(given), given["manifest"], folder, base=base, put=put, progress=said.progress,
            claim=lambda count: claims(given["state"], count, given["region"], given["hours"]),
        )  # fmt: skip
        said.result(
            f"{made} boards made and verified, {len(boards)} in {given['manifest']}",
            target=str(folder), manifest=str(given["manifest"]), made=made, boards=len(boards), verified=True,
        )  # fmt: skip


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InvalidConfig(f"--set {text!r} has no '='", hint="write it as OPTION=VALUE")
    return key.strip(), value.strip()


def _confirm(what: str, *, yes: bool) -> Callable[[Medium], None]:
    def confirm(medium: Medium) -> None:
        if yes:
            return
        if not sys.stdin.isatty():
            raise CallerError(f"{what} that is on {medium.title} would be lost", hint="say --yes if that is meant")
        click.confirm(f"{what.capitalize()} that is on {medium.title} will be lost. Go on?", abort=True, err=True)

    return confirm
