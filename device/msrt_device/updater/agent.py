"""The agent's own slots: two directories that `launcher` starts one of. An image is a tar with agent.py at its top."""

from __future__ import annotations

import errno
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

from msrt.artifacts.images import Image
from msrt.errors import Conflict, DiskFull, InvalidImage, LocalError
from msrt_device.updater import launcher
from msrt_device.updater.seed import remember, unpacked
from msrt_device.updater.slots import Found, Held, ReadAt, SlotState

__all__ = ["SLOTS", "AgentSlots", "ImageFile"]

SLOTS: Final = launcher.SLOTS


class ImageFile(io.RawIOBase):
    """An image as a file to read from."""

    def __init__(self, size: int, read: ReadAt) -> None:
        super().__init__()
        self._size, self._read, self._at = size, read, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]
        data = self._read(self._at, min(len(into), max(0, self._size - self._at)))
        into[: len(data)] = data
        self._at += len(data)
        return len(data)


class AgentSlots:
    """Implements `Slots` under a root that `launcher` runs. `leave` ends this process, soon."""

    def __init__(self, root: Path, slot: str = "", leave: Callable[[], None] = lambda: None) -> None:
        """`slot`: where this process was started from; empty: the one in force."""
        self.root, self._leave = root, leave
        root.mkdir(parents=True, exist_ok=True)
        self._active = slot or launcher.committed(root) or launcher.SLOTS[1]

    @property
    def _inactive(self) -> str:
        return launcher.SLOTS[1 - launcher.SLOTS.index(self._active)]

    def state(self) -> SlotState:
        root = self.root
        found = {slot: launcher.whole(root, slot) for slot in launcher.SLOTS}
        held = {slot: _held(said) for slot, said in found.items() if said}
        trial, fallen = launcher.read(root / launcher.TRIAL), launcher.read(root / launcher.FALLEN)
        return SlotState(
            self._active, self._inactive, held,
            trial=launcher.committed(root) not in ("", self._active),
            armed=str(trial.get("slot", "")) if trial.get("left", 0) > 0 else "",
            fallen=_held(fallen), why=str(fallen.get("why", "")),
        )  # fmt: skip

    def write(self, image: Image, read: ReadAt, index: bytes = b"") -> None:
        root, slot = self.root, self._inactive
        if slot == launcher.committed(root):
            raise Conflict(f"slot {slot} is the one to fall back to", hint="commit this agent, or restart, first")
        folder = root / slot
        try:
            self._fill(folder, image, read, index)
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)  # half of it would keep a full disk full
            if isinstance(error, tarfile.TarError):
                fault = str(error).partition("\n")[0]  # else a line for each way to compress one
                raise InvalidImage(f"{image.name} cannot be unpacked: {fault}") from error
            if isinstance(error, OSError):
                raise _disk(error, folder) from error
            raise

    def _fill(self, folder: Path, image: Image, read: ReadAt, index: bytes) -> None:
        root, slot = self.root, folder.name
        launcher.remove(root / launcher.TRIAL)
        launcher.remove(folder / launcher.WHOLE)
        for old in (folder, root / f"cache-{slot}", root / f"seed-{slot}"):
            shutil.rmtree(old, ignore_errors=True)
        folder.mkdir()
        with tarfile.open(fileobj=io.BufferedReader(ImageFile(image.size, read), 1 << 18)) as archive:
            _unpack(image, archive, folder)
            remember(archive, image.size, read, root / f"seed-{slot}", index)
        if not (folder / launcher.PROGRAM).is_file():
            raise InvalidImage(f"{image.name} has no {launcher.PROGRAM}", hint="make it by msrt device pack-agent")
        os.sync()  # thousands of files: once for all of them
        launcher.put(folder / launcher.WHOLE, {"version": image.version, "digest": image.digest})
        launcher.sync_folder(root)

    def arm(self, tries: int, trial_s: float) -> None:
        root, slot = self.root, self._inactive
        try:
            if tries <= 0:
                launcher.remove(root / launcher.TRIAL)
                return
            said = launcher.whole(root, slot)
            if not said or slot == launcher.committed(root):
                raise Conflict(f"slot {slot} holds nothing that could be tried", hint="write it first")
            launcher.remove(root / launcher.FALLEN)
            launcher.put(root / launcher.TRIAL, {**said, "slot": slot, "left": tries, "trial_s": trial_s})
        except OSError as error:
            raise _disk(error, root) from error

    def commit(self) -> None:
        root, slot = self.root, self._active
        trial = launcher.read(root / launcher.TRIAL)
        if launcher.committed(root) != slot:
            if trial.get("slot") != slot:
                raise Conflict(f"slot {slot} is not on trial any more", hint="it goes back at the next start")
            try:
                launcher.point(root, slot)
            except OSError as error:
                raise _disk(error, root) from error
        if trial.get("slot") == slot:
            launcher.remove(root / launcher.TRIAL)

    def restart(self) -> None:
        self._leave()

    def seed(self) -> Found | None:
        return unpacked(self.root / f"seed-{self._active}", lambda name: self.root / self._active / name)


def _unpack(image: Image, archive: tarfile.TarFile, folder: Path) -> None:
    """Its files, which lie within the folder. By hand: Debian 12's Python knows no filters of tarfile (3.11.4)."""
    for member in archive:
        path = PurePosixPath(member.name)
        if member.isdir():
            continue
        data = archive.extractfile(member) if member.isreg() else None
        if data is None or path.is_absolute() or ".." in path.parts:
            raise InvalidImage(f"{image.name} holds {member.name!r}, which no agent has")
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as out:
            shutil.copyfileobj(data, out, 1 << 18)


def _held(said: dict[str, object]) -> Held:
    return Held(str(said.get("version", "")), str(said.get("digest", "")))


def _disk(error: OSError, where: Path) -> LocalError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFull(f"the disk of {where} is full")
    return LocalError(f"{where}: {error.strerror or error}")
