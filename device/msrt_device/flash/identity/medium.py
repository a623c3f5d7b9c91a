"""The identity on a medium that is mounted nowhere: written, synced, read back from the medium, compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msrt.errors import LocalError, NotFound
from msrt_device.flash.identity.issued import ISSUED
from msrt_device.flash.identity.settings import IDENTITY_FILE, IDENTITY_LABEL, IdentitySettings, InvalidIdentity
from msrt_device.flash.volumes.fat import FatVolume
from msrt_device.flash.volumes.partitions import Partition, partitions
from msrt_device.flash.writing.medium import Sink

__all__ = ["SettingNotTaken", "find_volume", "no_volume", "read_identity", "write_identity"]

SECRETS: Final = frozenset({"invite", "wifi.password"})


class SettingNotTaken(LocalError):
    """The medium does not hold what it was told. `settings` are the names."""

    code = "setting_not_taken"
    hint = "write it again, or take another medium"

    def __init__(self, wanted: dict[str, str], found: dict[str, str]) -> None:
        self.settings = sorted(
            name for name in wanted.keys() | found.keys() if wanted.get(name, "") != found.get(name, "")
        )
        said = [
            name if name in SECRETS else f"{name} ({found.get(name, '')!r} instead of {wanted.get(name, '')!r})"
            for name in self.settings
        ]
        super().__init__(f"settings that the medium did not take: {', '.join(said)}")


def find_volume(medium: Sink, size: int) -> FatVolume:
    """The volume with the label MSRTID, in a partition or on the bare medium of `size` bytes. Raises NotFound."""
    table = partitions(medium)
    for where in [*table, Partition(0, 0, size, "")]:
        volume = FatVolume.open(medium, where)
        if volume is not None and volume.label == IDENTITY_LABEL:
            return volume
    raise no_volume("the medium")


def no_volume(what: str) -> NotFound:
    """There is no place for an identity."""
    return NotFound(
        f"{what} has no FAT volume with the label {IDENTITY_LABEL}, where an identity would go",
        hint="a Linux image of `msrt device image` has one; your own: mkfs.vfat -n MSRTID on a partition of 16 MiB",
    )


def write_identity(
    medium: Sink, size: int, settings: IdentitySettings, issued: Mapping[str, bytes] | None = None
) -> None:
    """Put the settings onto the medium, and what was issued for them beside, and see that it has them.

    Raises NotFound, SettingNotTaken (names each that did not take), VolumeFull, MediumFailed.
    """
    volume, files = find_volume(medium, size), issued or {}
    for name in ISSUED:
        volume.remove(name)
    for name, data in {**files, IDENTITY_FILE: settings.render().encode()}.items():
        volume.write(name, data)
    medium.sync()
    again = find_volume(medium, size)
    lost = [name for name, data in files.items() if name not in again.names() or again.read(name) != data]
    if lost:
        raise SettingNotTaken(dict.fromkeys(lost, "all of it"), {})
    try:
        found = read_identity(medium, size).flat()
    except (InvalidIdentity, NotFound):  # not even a file of ours
        found = {}
    if found != settings.flat():
        raise SettingNotTaken(settings.flat(), found)


def read_identity(medium: Sink, size: int) -> IdentitySettings:
    """What the medium says, from its partition table on. Raises NotFound, InvalidIdentity."""
    data = find_volume(medium, size).read(IDENTITY_FILE)
    try:
        return IdentitySettings.parse(data.decode())
    except UnicodeDecodeError:
        raise InvalidIdentity(f"{IDENTITY_FILE} is not UTF-8 text") from None
