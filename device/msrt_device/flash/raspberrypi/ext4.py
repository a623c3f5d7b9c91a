"""Files of an ext4 file system in a file, read and written by debugfs (e2fsprogs): no mount, no root.

debugfs tells of failures in words only, so what was written is read back.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path, PurePosixPath
from typing import Final

from msrt.errors import LocalError
from msrt_device.flash.linux.run import run

__all__ = ["Ext4", "RootNotTaken"]

_MODE: Final = re.compile(r"Type: (\w+)\s+Mode:\s+(\d+)")
_OWNER: Final = re.compile(r"User:\s*(\d+)\s+Group:\s*(\d+)")
_LINK: Final = re.compile(r'Fast link dest: "(.*)"')


class RootNotTaken(LocalError):
    """A file system does not hold what was written into it."""

    code = "root_not_taken"


class Ext4:
    """Paths are absolute, of that file system."""

    def __init__(self, image: Path) -> None:
        self.image = image

    def has(self, path: str) -> bool:
        return bool(self._stat(path))

    def read(self, path: str) -> bytes:
        """Empty where there is no such file."""
        with tempfile.TemporaryDirectory(prefix="msrt-ext4-") as folder:
            out = Path(folder) / "file"
            run(["debugfs", "-R", f'dump "{path}" "{out}"', str(self.image)])
            return out.read_bytes() if out.exists() else b""

    def text(self, path: str) -> str:
        return self.read(path).decode("utf-8", "replace")

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """A file of root's, or another content for one that is there, which keeps mode and owner.

        Raises RootNotTaken.
        """
        mode, owner, group = self._owned(path) or (mode, 0, 0)
        with tempfile.TemporaryDirectory(prefix="msrt-ext4-") as folder:
            draft = Path(folder) / "file"
            draft.write_bytes(data)
            self._do(
                *self._folders(path),
                *([f'rm "{path}"'] if self.has(path) else []),
                f'write "{draft}" "{path}"',
                *(f'sif "{path}" {what} {value}' for what, value in
                  (("mode", oct(0o100000 | mode).replace("0o", "0")), ("uid", owner), ("gid", group))),
            )  # fmt: skip
        if self.read(path) != data or self._owned(path) != (mode, owner, group):
            raise RootNotTaken(f"{path} does not read back as written: is the image's root full?")

    def link(self, path: str, to: str) -> None:
        """A symbolic link of less than 60 characters. Raises RootNotTaken."""
        self._do(*self._folders(path), *([f'rm "{path}"'] if self.has(path) else []), f'symlink "{path}" "{to}"')
        found = _LINK.search(self._stat(path))
        if found is None or found[1] != to:
            raise RootNotTaken(f"{path} is no link to {to}")

    def folder(self, path: str) -> None:
        """Raises RootNotTaken."""
        self._do(*self._folders(f"{path}/x"))
        if "Type: directory" not in self._stat(path):
            raise RootNotTaken(f"{path} is no folder")

    def grow(self, size: int) -> None:
        """Checked, and as large as `size` bytes."""
        with self.image.open("r+b") as file:
            file.truncate(size)
        # Status 1: it corrected something, as the bits of a clean shutdown.
        run(["sh", "-c", 'e2fsck -f -y "$1" || [ $? -eq 1 ]', "sh", str(self.image)])
        run(["resize2fs", str(self.image)])

    def _folders(self, path: str) -> list[str]:
        parents = [str(one) for one in reversed(PurePosixPath(path).parents) if str(one) != "/"]
        return [f'mkdir "{one}"' for one in parents if not self.has(one)]

    def _owned(self, path: str) -> tuple[int, int, int] | None:
        said = self._stat(path)
        mode, owner = _MODE.search(said), _OWNER.search(said)
        return (int(mode[2], 8), int(owner[1]), int(owner[2])) if mode and owner else None

    def _stat(self, path: str) -> str:
        said = run(["debugfs", "-R", f'stat "{path}"', str(self.image)])
        return said if "Inode:" in said else ""

    def _do(self, *commands: str) -> None:
        run(["debugfs", "-w", "-f", "-", str(self.image)], stdin="".join(f"{one}\n" for one in commands))
