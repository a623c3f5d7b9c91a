"""Slots of a whole system on a Raspberry Pi: boot and root partitions twice, and a boot loader with a one-shot flag.

A trial is `reboot "0 tryboot"`: the boot loader starts the other boot partition once, and after that the one in force,
whatever happened. So whoever asks for that restart counts the trial's starts down first. On the small partition that
the boot loader reads first, a FAT, each step is one file that comes, goes or is renamed:

    autoboot.txt     which slot is in force (`autoboot`); a commit is a new one in its place
    SLOT.json        what is in the slot; written last, removed first
    trial.json       what is on trial, the starts that are left, and those that were made
    trial.seconds    how long each may take, for a shell

An image is a tar with system.json, boot.img (FAT) and root.img (ext4), in this order. What makes boot.img this slot's
and this board's (root partition, Wi-Fi, locale) is written into it on its partition, and read back.
"""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from msrt.artifacts.images import Image
from msrt.errors import Conflict, InvalidImage, MsrtError
from msrt_device.flash.identity.folder import IdentityFolder
from msrt_device.flash.identity.settings import IdentitySettings
from msrt_device.updater.agent import ImageFile
from msrt_device.updater.autoboot import in_force, render
from msrt_device.updater.boot_media import disk_fault, gone, put, read_json, write_partition
from msrt_device.updater.here import BOOT
from msrt_device.updater.slots import Found, Held, ReadAt, SlotState
from msrt_device.updater.system import PARTITIONS, REBOOT

__all__ = ["MEMBERS", "TrybootSlots"]

SLOTS: Final = ("a", "b")
MEMBERS: Final = ("system.json", "boot.img", "root.img")
IDENTITY: Final = Path("/etc/msrt/identity")
TRYBOOT: Final = "0 tryboot"
"""Argument of `reboot`: the default partition, and the flag."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """`trial.json`."""

    version: str
    digest: str
    slot: str
    tries: int
    left: int
    """Starts that may still be made."""
    made: int = 0
    """Starts that were asked for."""
    taken_back: bool = False

    @property
    def why(self) -> str:
        if self.made:
            return f"{self.made} of {self.tries} starts ended before it was committed"
        return "it was taken back before it started"


class TrybootSlots:
    """Implements `Slots`."""

    def __init__(
        self,
        active: str,
        boot: Path = BOOT,
        partitions: Path = PARTITIONS,
        reboot: Path = REBOOT,
        identity: Path = IDENTITY,
    ) -> None:
        self._active, self._inactive = active, SLOTS[1 - SLOTS.index(active)]
        self._boot, self._partitions, self._reboot, self._identity = boot, partitions, reboot, identity

    def state(self) -> SlotState:
        force, trial = self._in_force(), self._trial()
        held = {slot: _held(said) for slot in SLOTS if (said := read_json(self._boot / f"{slot}.json"))}
        held.setdefault(self._active, Held("factory"))
        state = SlotState(self._active, self._inactive, held, trial=force != self._active)
        if trial is None or trial.slot in {force, self._active}:
            return state
        if trial.left:
            return replace(state, armed=trial.slot)
        return replace(state, fallen=Held(trial.version, trial.digest), why=trial.why)

    def write(self, image: Image, read: ReadAt, index: bytes = b"") -> None:  # noqa: ARG002 - see `seed`
        from msrt_device.flash.raspberrypi.boot import prepare_partition  # noqa: PLC0415 - a rare need

        slot = self._inactive
        if slot == self._in_force():
            raise Conflict(f"slot {slot} is the one to fall back to", hint="commit this system, or restart, first")
        try:
            gone(self._boot / "trial.json")
            gone(self._boot / f"{slot}.json")
            with tarfile.open(fileobj=io.BufferedReader(ImageFile(image.size, read)), mode="r:") as archive:
                self._unpack(image, read, archive)
            prepare_partition(self._partitions / f"boot-{slot}", slot, self._settings())
            put(self._boot / f"{slot}.json", json.dumps({"version": image.version, "digest": image.digest}))
        except tarfile.TarError as error:
            raise InvalidImage(f"{image.name} cannot be unpacked: {error}") from error
        except OSError as error:
            raise disk_fault(error, slot) from error

    def arm(self, tries: int, trial_s: float) -> None:
        slot = self._inactive
        try:
            if tries <= 0:
                if (trial := self._trial()) is not None:
                    self._put_trial(msgspec.structs.replace(trial, left=0, taken_back=True))
                return
            said = read_json(self._boot / f"{slot}.json")
            if not said or slot == self._in_force():
                raise Conflict(f"slot {slot} holds nothing that could be tried", hint="write it first")
            put(self._boot / "trial.seconds", f"{trial_s:.0f}\n")
            held = _held(said)
            self._put_trial(Trial(version=held.version, digest=held.digest, slot=slot, tries=tries, left=tries))
        except OSError as error:
            raise disk_fault(error, slot) from error

    def commit(self) -> None:
        slot = self._active
        try:
            if self._in_force() != slot:
                trial = self._trial()
                if trial is None or trial.slot != slot or trial.taken_back:
                    raise Conflict(f"slot {slot} is not on trial any more", hint="it goes back at the next start")
                put(self._boot / "autoboot.txt", render(slot))
            gone(self._boot / "trial.json")
        except OSError as error:
            raise disk_fault(error, slot) from error

    def restart(self) -> None:
        """Counts the start of a trial before it asks for it: the boot loader keeps no count."""
        trial, argument = self._trial(), ""
        if trial is not None and trial.left > 0 and trial.slot != self._in_force():
            try:
                self._put_trial(msgspec.structs.replace(trial, left=trial.left - 1, made=trial.made + 1))
            except OSError as error:
                raise disk_fault(error, self._inactive) from error
            argument = TRYBOOT
        self._reboot.parent.mkdir(parents=True, exist_ok=True)
        draft = self._reboot.with_name(self._reboot.name + ".new")
        draft.write_text(argument)
        draft.replace(self._reboot)  # the unit that waits for it finds it whole

    def seed(self) -> Found | None:
        return None  # the running root is for root alone to read

    def _in_force(self) -> str:
        with contextlib.suppress(OSError):
            return in_force((self._boot / "autoboot.txt").read_text(errors="replace")) or self._active
        return self._active

    def _trial(self) -> Trial | None:
        with contextlib.suppress(OSError, msgspec.ValidationError, msgspec.DecodeError):
            return msgspec.json.decode((self._boot / "trial.json").read_bytes(), type=Trial)
        return None

    def _put_trial(self, trial: Trial) -> None:
        put(self._boot / "trial.json", msgspec.json.encode(trial))

    def _settings(self) -> IdentitySettings:
        """The board's; a board without an identity gets what an image has."""
        try:
            return IdentityFolder(self._identity).read()
        except MsrtError:
            return IdentitySettings()

    def _unpack(self, image: Image, read: ReadAt, archive: tarfile.TarFile) -> None:
        missing = list(MEMBERS)
        for member in archive:
            if not missing or member.name != missing[0] or not member.isfile():
                raise InvalidImage(f"{image.name} holds {member.name!r}, which no system of a Raspberry Pi has there")
            missing.pop(0)
            if member.name != "system.json":
                part = self._partitions / f"{member.name.removesuffix('.img')}-{self._inactive}"
                write_partition(part, image.name, read, member.offset_data, member.size)
        if missing:
            raise InvalidImage(f"{image.name} has no {missing[0]}", hint="make it by msrt device image raspberrypi")


def _held(said: Mapping[str, object]) -> Held:
    return Held(str(said.get("version", "")), str(said.get("digest", "")))
