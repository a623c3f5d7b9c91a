"""Slots of a whole system: two root partitions, two boot entries, and systemd-boot that counts a trial's starts.

What changes lies on the ESP, a FAT file system, which has no journal. So each step is one file that comes, goes or is
renamed, and all of it is on the medium before the next one begins:

    loader/entries/msrt-SLOT*.conf   see `entries`; without one a slot is never started
    msrt/SLOT/                       what the image holds but for the root
    msrt/seed-SLOT/                  how the image lay together, and its chunks (see `seed`)
    msrt/SLOT.json                   what is in the slot; written last, removed first
    msrt/trial.json                  what is on trial, and how long each of its starts may take
    msrt/trial.why                   what the system on trial, not its agent, had to say when it gave up

An image is a tar with system.json, linux, initrd and root.img (an ext4 file system), in this order.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from msrt.artifacts.images import Image
from msrt.errors import Conflict, InvalidImage
from msrt_device.updater.agent import ImageFile
from msrt_device.updater.boot_media import disk_fault, gone, put, read_json, sync_folder, write_partition
from msrt_device.updater.entries import BootEntry, in_force, parse_entries
from msrt_device.updater.here import ESP
from msrt_device.updater.seed import remember, unpacked
from msrt_device.updater.slots import Found, Held, ReadAt, SlotState

__all__ = ["MEMBERS", "SystemSlots"]

SLOTS: Final = ("a", "b")
MEMBERS: Final = ("system.json", "linux", "initrd", "root.img")
PARTITIONS: Final = Path("/dev/disk/by-partlabel")
REBOOT: Final = Path("/run/msrt/reboot")
"""A unit of the image watches for this file: the agent itself may not reboot the machine."""


class SystemSlots:
    """Implements `Slots`."""

    def __init__(self, active: str, esp: Path = ESP, partitions: Path = PARTITIONS, reboot: Path = REBOOT) -> None:
        self._active, self._inactive = active, SLOTS[1 - SLOTS.index(active)]
        self._entries, self._own = esp / "loader/entries", esp / "msrt"
        self._partitions, self._reboot = partitions, reboot

    def state(self) -> SlotState:
        entries, trial = self._all(), read_json(self._own / "trial.json")
        held = {slot: _held(said) for slot in SLOTS if (said := read_json(self._own / f"{slot}.json"))}
        held.setdefault(self._active, Held("factory"))
        force = self._in_force(entries)
        tried = next((one for one in entries if one.slot == trial.get("slot") and one.left is not None), None)
        waits = tried is not None and bool(tried.left) and tried.slot != self._active
        fell = bool(trial) and trial["slot"] not in {force, self._active} and not waits
        return SlotState(
            self._active, self._inactive, held, trial=force != self._active,
            armed=trial["slot"] if waits else "", fallen=_held(trial) if fell else Held(""),
            why=self._why(trial, tried) if fell else "",
        )  # fmt: skip

    def write(self, image: Image, read: ReadAt, index: bytes = b"") -> None:
        slot = self._inactive
        if slot == self._in_force(self._all()):
            raise Conflict(f"slot {slot} is the one to fall back to", hint="commit this system, or restart, first")
        try:
            self._drop_entries(slot)
            gone(self._own / "trial.json")
            gone(self._own / f"{slot}.json")
            shutil.rmtree(self._own / f"seed-{slot}", ignore_errors=True)
            with tarfile.open(fileobj=io.BufferedReader(ImageFile(image.size, read)), mode="r:") as archive:
                self._unpack(image, read, archive)
                remember(archive, image.size, read, self._own / f"seed-{slot}", index)
            put(self._own / f"{slot}.json", json.dumps({"version": image.version, "digest": image.digest}))
        except tarfile.TarError as error:
            raise InvalidImage(f"{image.name} cannot be unpacked: {error}") from error
        except OSError as error:
            raise disk_fault(error, slot) from error

    def arm(self, tries: int, trial_s: float) -> None:
        slot, running = self._inactive, self._active
        try:
            entries = self._all()
            if tries <= 0:
                self._drop_entries(running if self._in_force(entries) != running else slot, counted=True)
                return
            said = read_json(self._own / f"{slot}.json")
            if not said or slot == self._in_force(entries):
                raise Conflict(f"slot {slot} holds nothing that could be tried", hint="write it first")
            self._drop_entries(slot)
            gone(self._own / "trial.why")
            put(self._own / "trial.json", json.dumps({**said, "slot": slot, "tries": tries, "trial_s": trial_s}))
            put(self._own / "trial.seconds", f"{trial_s:.0f}\n")  # for a shell
            text = self._entry(slot, 1 + max(self._versions().values(), default=0))
            put(self._entries / BootEntry(slot, tries).name, text)
        except OSError as error:
            raise disk_fault(error, slot) from error

    def commit(self) -> None:
        slot = self._active
        try:
            entries = self._all()
            if self._in_force(entries) != slot:
                mine = [one for one in entries if one.slot == slot]
                if not mine:
                    raise Conflict(f"slot {slot} is not on trial any more", hint="it goes back at the next start")
                (self._entries / mine[0].name).replace(self._entries / BootEntry(slot).name)
                sync_folder(self._entries)
            self._drop_entries(slot, counted=True)  # a rename that the power cut in two
            gone(self._own / "trial.json")
        except OSError as error:
            raise disk_fault(error, slot) from error

    def restart(self) -> None:
        self._reboot.parent.mkdir(parents=True, exist_ok=True)
        self._reboot.touch()

    def seed(self) -> Found | None:
        found = unpacked(self._own / f"seed-{self._active}", lambda name: self._place(self._active, name))
        # A system of before gave its agent no right to read it.
        return found if found and os.access(self._place(self._active, MEMBERS[-1]), os.R_OK) else None

    # --- boot entries ----------------------------------------------------------------------------------------------

    def _all(self) -> list[BootEntry]:
        return parse_entries(path.name for path in self._entries.iterdir())

    def _versions(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for entry in self._all():
            text = (self._entries / entry.name).read_text(errors="replace")
            number = re.search(r"^version (\d+)$", text, re.MULTILINE)
            found[entry.slot] = max(found.get(entry.slot, 0), int(number[1]) if number else 0)
        return found

    def _in_force(self, entries: list[BootEntry]) -> str:
        return in_force(entries, self._versions()) or self._active

    def _entry(self, slot: str, version: int) -> str:
        """The running system's entry, for the other slot: its console and whatever else was added stay."""
        mine = next(one for one in self._all() if one.slot == self._active)
        text = (self._entries / mine.name).read_text()
        old = self._active
        for before, after in (
            (r"^version .*$", f"version {version}"), (r"^title .*$", f"title msrt ({slot})"),
            (rf"/msrt/{old}/", f"/msrt/{slot}/"), (rf"\broot-{old}\b", f"root-{slot}"),
            (rf"\bmsrt\.slot={old}\b", f"msrt.slot={slot}"),
        ):  # fmt: skip
            text = re.sub(before, after, text, flags=re.MULTILINE)
        return text

    def _drop_entries(self, slot: str, *, counted: bool = False) -> None:
        for entry in self._all():
            if entry.slot == slot and (entry.left is not None or not counted):
                gone(self._entries / entry.name)

    def _why(self, trial: Mapping[str, Any], tried: BootEntry | None) -> str:
        with contextlib.suppress(OSError):
            if said := (self._own / "trial.why").read_text(errors="replace").strip():
                return said
        if tried is None:
            return "its boot entry is gone"
        return f"{tried.done} of {trial['tries']} starts ended before it was committed"

    # --- what a slot holds -----------------------------------------------------------------------------------------

    def _unpack(self, image: Image, read: ReadAt, archive: tarfile.TarFile) -> None:
        slot, missing = self._inactive, set(MEMBERS)
        for member in archive:
            if member.name not in missing or not member.isfile():
                raise InvalidImage(f"{image.name} holds {member.name!r}, which no system has")
            missing.remove(member.name)
            if member.name == MEMBERS[-1]:
                write_partition(self._place(slot, member.name), image.name, read, member.offset_data, member.size)
                continue
            place, data = self._place(slot, member.name), archive.extractfile(member)
            assert data is not None, "it is a file"
            place.parent.mkdir(exist_ok=True)
            put(place, data.read())
        if missing:
            raise InvalidImage(f"{image.name} has no {min(missing)}", hint="make it by msrt device image")

    def _place(self, slot: str, name: str) -> Path:
        """Where a member of an image lies once it is in a slot."""
        return self._partitions / f"root-{slot}" if name == MEMBERS[-1] else self._own / slot / name


def _held(said: Mapping[str, Any]) -> Held:
    return Held(str(said.get("version", "")), str(said.get("digest", "")))
