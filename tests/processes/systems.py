"""Systems to be sent over the air, made of one that was built: files are laid over its root, none is built anew."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msrt_device.flash.linux.initrd import cpio
from msrt_device.flash.linux.run import run

__all__ = ["FAULTS", "Systems", "lay_over"]

MIB = 2**20
FAULTS: Final[dict[str, Mapping[str, str]]] = {
    "agent": {
        "/usr/lib/msrt/agent/agent.py": "raise SystemExit(3)\n",
        "/usr/lib/msrt/agent/slot.json": '{"version": "broken", "build": "broken"}\n',
    },
    "network": {"/etc/systemd/network/20-any.network": "[Match]\nName=none\n"},
    "kernel": {},
}
"""What is wrong with each: the files it has in place of the good ones. `kernel`: an initrd without a first program."""


def lay_over(image: Path, offset: int, files: Mapping[str, str], scratch: Path) -> None:
    """Replace files of an ext4 file system that begins at `offset` of an image."""
    commands = []
    for number, (name, text) in enumerate(files.items()):
        draft = scratch / f"over-{number}"
        draft.write_text(text)
        draft.chmod(0o755 if text.startswith("#!") else 0o644)
        commands += [f"rm {name}", f"write {draft} {name}"]
    (scratch / "over").write_text("\n".join(commands) + "\n")
    run(["debugfs", "-w", "-f", str(scratch / "over"), f"{image}?offset={offset}"])


class Systems:
    """Variants of a packed system; `files` are laid over each."""

    def __init__(self, packed: Path, folder: Path, files: Mapping[str, str]) -> None:
        self._folder, self._files = folder, files
        self._parts = folder / "parts"
        with tarfile.open(packed) as archive:
            archive.extractall(self._parts, filter="data")
            self._members = archive.getnames()
        self.size = packed.stat().st_size

    def made(self, version: str, fault: str = "") -> Path:
        """Another version, with a fault of that name."""
        root, initrd = self._parts / "root.img", self._parts / "initrd"
        root = self._copied(root)
        lay_over(root, 0, {"/etc/issue": f"msrt {version}\n", **self._files, **FAULTS.get(fault, {})}, self._folder)
        if fault == "kernel":
            initrd = self._empty()
        out = self._folder / f"system-{version}.tar"
        with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as archive:
            for name in self._members:
                archive.add({"root.img": root, "initrd": initrd}.get(name, self._parts / name), name)
        root.unlink()
        return out

    def _copied(self, path: Path) -> Path:
        out = self._folder / path.name
        run(["cp", "--sparse=always", str(path), str(out)])
        return out

    def _empty(self) -> Path:
        folder, out = self._folder / "empty", self._folder / "initrd"
        (folder / "dev").mkdir(parents=True, exist_ok=True)
        out.write_bytes(cpio(folder))
        return out
