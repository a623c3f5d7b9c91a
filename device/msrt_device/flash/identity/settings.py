"""The settings of one board: what stands in `identity.toml`, each with its shape.

A script of the first boot hands some of them to other programs (the locale, the Wi-Fi): what could be read as
anything but a value is refused here.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Self

import msgspec

from msrt.config import nearest
from msrt.errors import CallerError, InvalidAddress
from msrt.protocol.address import MAX_LABELS, check_label, check_name, check_region

__all__ = ["IDENTITY_FILE", "IDENTITY_LABEL", "IdentitySettings", "InvalidIdentity", "Wifi"]

IDENTITY_LABEL: Final = "MSRTID"
"""Volume label of the FAT file system that holds the file; our images name the partition `msrtid`, too."""
IDENTITY_FILE: Final = "identity.toml"
TEXT_LIMIT: Final = 64 * 1024
_ESCAPED: Final = re.compile(r'["\\\x00-\x1f\x7f]')

Serial = Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._:-]{0,63})?\Z")]
Country = Annotated[str, msgspec.Meta(pattern=r"^([A-Z]{2})?\Z")]
Locale = Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z]{1,8}(_[A-Z]{2})?(\.[A-Za-z0-9-]{1,16})?(@[a-z]{1,16})?)?\Z")]
Timezone = Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2})?\Z")]


class InvalidIdentity(CallerError):
    """An identity file, or a setting for one, cannot work."""

    code = "invalid_identity"


class Wifi(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The network that the board joins by itself."""

    ssid: str = ""
    """1 to 32 bytes of UTF-8; empty: no Wi-Fi."""
    password: str = ""
    """WPA: 8 to 63 printable ASCII characters, or the key in 64 hexadecimal digits; empty: an open network."""
    country: Country = ""
    """ISO 3166 code of two letters: which channels are allowed there."""

    def __post_init__(self) -> None:
        if (self.password or self.country) and not self.ssid:
            raise InvalidIdentity("wifi: a password or country without an ssid", hint="set the ssid, too")
        if len(self.ssid.encode()) > 32 or not self.ssid.isprintable():
            raise InvalidIdentity("wifi.ssid is longer than 32 bytes, or has characters that do not print")
        word = self.password
        ascii_ = all(32 <= ord(character) < 127 for character in word)
        if word and not (re.fullmatch(r"[0-9A-Fa-f]{64}", word) or (ascii_ and 8 <= len(word) <= 63)):
            raise InvalidIdentity("wifi.password is none", hint="8 to 63 ASCII characters, or 64 hexadecimal digits")

    def __repr__(self) -> str:
        return f"Wifi(ssid={self.ssid!r}, country={self.country!r})"


class IdentitySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One board's settings. The claim makes the file as secret as a password, until it is spent."""

    invite: str = ""
    """The claim: a one-time invite of `msrt invite device`. It carries the edges' addresses and keys, and the cloud's
    key."""
    spent: bool = False
    """The claim was used, and is gone from here."""
    name: str = ""
    """Its name in the tree; empty: the host's and a short id."""
    region: str = ""
    """For people and first-boot scripts: the region that decides is the invite's."""
    serial: Serial = ""
    """The board's serial number, as it stands on it or in its manufacturer's list: letters, digits, . _ : -"""
    locale: Locale = ""
    """Such as de_DE.UTF-8."""
    timezone: Timezone = ""
    """Such as Europe/Berlin."""
    labels: dict[str, str] = {}
    """What the device reports beside the labels of its invite."""
    wifi: Wifi = Wifi()

    def __post_init__(self) -> None:
        if self.spent and self.invite:
            raise InvalidIdentity("the claim is there, and said to be spent", hint="leave `spent` to the device")
        if len(self.labels) > MAX_LABELS:
            raise InvalidIdentity(f"{len(self.labels)} labels, at most {MAX_LABELS} fit")
        try:
            for key, value in self.labels.items():
                check_label(key, value)
            if self.name:
                check_name(self.name)
            if self.region:
                check_region(self.region)
        except InvalidAddress as error:
            raise InvalidIdentity(error.text, hint=error.hint) from None

    def __repr__(self) -> str:
        claim = "a claim" if self.invite else "spent" if self.spent else "no claim"
        return f"IdentitySettings({claim}, name={self.name!r}, serial={self.serial!r}, region={self.region!r})"

    @classmethod
    def parse(cls, text: str, where: str = IDENTITY_FILE) -> Self:
        """Read the file. Raises InvalidIdentity naming `where` and the setting, and for an unknown one the nearest."""
        if len(text) > TEXT_LIMIT:
            raise InvalidIdentity(f"{where}: {len(text)} characters are no identity")
        try:
            return cls.of(tomllib.loads(text), where)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise InvalidIdentity(f"{where} is not TOML: {error}") from None

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> Self:
        """The same from values: of a file, of a line of CSV, of flags."""
        known = {"": cls.__struct_fields__, "wifi": Wifi.__struct_fields__}
        wifi = values.get("wifi")
        for table, names in (("", values), ("wifi", wifi if isinstance(wifi, dict) else {})):
            for name in names:
                if name not in known[table]:
                    what = f"{table}.{name}" if table else name
                    raise InvalidIdentity(
                        f"{where}: unknown setting {what!r}", hint=f"did you mean {nearest(name, known[table])!r}?"
                    )
        try:
            return msgspec.convert(dict(values), cls)
        except msgspec.ValidationError as error:
            raise InvalidIdentity(f"{where}: {_said(error)}") from None
        except InvalidIdentity as error:
            raise InvalidIdentity(f"{where}: {error.text}", hint=error.hint) from None

    def render(self) -> str:
        """The file: TOML, tables last."""
        values = msgspec.to_builtins(self)
        lines = ["spent = true"] if values.pop("spent", False) else []
        lines += [f"{key} = {_toml(value)}" for key, value in values.items() if not isinstance(value, dict)]
        for table in (name for name, value in values.items() if isinstance(value, dict) and value):
            lines += ["", f"[{table}]", *(f"{_toml(key)} = {_toml(one)}" for key, one in values[table].items())]
        return "\n".join(lines) + "\n"

    def flat(self) -> dict[str, str]:
        """Every setting by its full name, `wifi.ssid` and `labels.site` too: what is held against the read-back."""
        out: dict[str, str] = {}
        for key, value in msgspec.to_builtins(self).items():
            nested = {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
            out |= {name: str(one) for name, one in nested.items()}
        return out

    def as_settings(self) -> dict[str, Any]:
        """What of it are settings of the device's process, for `msrt.config.load`."""
        return {key: value for key in ("name", "labels", "serial") if (value := getattr(self, key))}

    def without_claim(self) -> Self:
        """What stays of it when the claim is spent."""
        return msgspec.structs.replace(self, invite="", spent=True)


def _toml(value: str) -> str:
    """A basic string: it holds any text but control characters and surrogates."""
    return '"' + _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", value) + '"'


def _said(error: msgspec.ValidationError) -> str:
    what, _, where = str(error).partition(" - at `$.")
    return f"{where.strip('`')}: {what[0].lower()}{what[1:]}" if where else what
