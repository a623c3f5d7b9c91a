"""An identity from a command line: flags, an invite in a string or a file, an identity file."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from msrt.config import nearest
from msrt.errors import CallerError
from msrt.protocol.address import parse_labels
from msrt.trust.invite import PREFIX, Invite
from msrt.trust.roles import Role
from msrt_device.flash.identity.settings import IdentitySettings, InvalidIdentity

__all__ = ["board_options", "board_settings_of", "claim_of", "common_of", "identity_options", "settings_of"]

F = TypeVar("F", bound=Callable[..., Any])
HERE: Final = "the command line"
BOARD: Final = {
    "locale": "Such as de_DE.UTF-8.",
    "timezone": "Such as Europe/Berlin.",
    "wifi-ssid": "Network that it joins by itself.",
    "wifi-password": "Its password; `file:PATH`: the file has it.",
    "wifi-country": "Two letters of ISO 3166.",
}
"""What the boards of a batch have in common."""
ONE: Final = {
    "name": "Its name in the tree. Default: the host's and a short id.",
    "serial": "Its serial number, as in your inventory.",
}


def board_options(command: F) -> F:
    """Flags for what many boards may share."""
    for name, meaning in reversed(BOARD.items()):
        command = click.option(f"--{name}", default="", help=meaning)(command)
    return click.option("--label", "labels", multiple=True, metavar="K=V", help="It reports it; may be repeated.")(
        command
    )


def identity_options(command: F) -> F:
    """Flags for one board."""
    command = board_options(command)
    for name, meaning in reversed(ONE.items()):
        command = click.option(f"--{name}", default="", help=meaning)(command)
    command = click.option(
        "--identity", type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="Write this identity.toml; other flags change it.",
    )(command)  # fmt: skip
    return click.option(
        "--invite", default="", help="Write an identity with this claim, a string or a file (msrt invite device)."
    )(command)


def settings_of(given: Mapping[str, Any]) -> IdentitySettings | None:
    """The identity that the flags describe, None without --invite and --identity.

    Raises InvalidIdentity, CallerError, the invite errors.
    """
    values = common_of(given) | {name: given[name] for name in ONE if given[name]}
    if given["identity"] is not None:
        found = IdentitySettings.parse(_text_of(given["identity"]), str(given["identity"]))
        values = tomllib.loads(found.render()) | values
        _check_zone(values)
    if given["invite"]:
        values |= claim_of(given["invite"])
    if given["invite"] or given["identity"] is not None:
        return IdentitySettings.of(values, HERE)
    if values:
        raise click.UsageError(f"without --invite or --identity no identity is written: {min(values)} says nothing")
    return None


def board_settings_of(given: Mapping[str, Any]) -> IdentitySettings | None:
    """The same for a board behind a gateway, which needs no claim: the flags alone are an identity."""
    values = common_of(given) | {name: given[name] for name in ONE if given[name]}
    if values and not given["invite"] and given["identity"] is None:
        return IdentitySettings.of(values, HERE)
    return settings_of(given)


def common_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `board_options`, by the settings' names."""
    values: dict[str, Any] = {name: given[name] for name in ("locale", "timezone") if given[name]}
    wifi = {key: given[f"wifi_{key}"] for key in ("ssid", "password", "country") if given[f"wifi_{key}"]}
    if wifi.get("password", "").startswith("file:"):
        wifi["password"] = _text_of(Path(wifi["password"].removeprefix("file:")))
    _check_zone(values)
    if given["labels"]:
        values["labels"] = parse_labels(given["labels"])
    return values | ({"wifi": wifi} if wifi else {})


def _check_zone(values: Mapping[str, Any]) -> None:
    """Here, and not when it is read: a board whose own list lacks the zone says so and keeps UTC."""
    from zoneinfo import available_timezones  # noqa: PLC0415 - reads a folder of files

    name = values.get("timezone", "")
    known = available_timezones() if name else ()
    if known and name not in known:
        raise InvalidIdentity(f"there is no time zone {name!r}", hint=f"did you mean {nearest(name, known)!r}?")


def claim_of(invite: str) -> dict[str, str]:
    """The invite, or a file's, and the region that it is for. Raises InviteForged, InviteExpired, CallerError."""
    text = invite.strip() if invite.strip().startswith(PREFIX) else _text_of(Path(invite))
    parsed = Invite.parse(text, time.time())  # noqa: TID251 - a command in the foreground: nothing is simulated here
    if parsed.role != Role.DEVICE:
        raise CallerError(f"the invite is for a node of role {parsed.role}", hint="msrt invite device")
    return {"invite": text, "region": parsed.region} if parsed.region else {"invite": text}


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CallerError(f"cannot read {path}: {error}") from error
