"""Both disks behind one set of knobs, so that one suite tests them."""

from __future__ import annotations

from pathlib import Path

import pytest

from msrt.world.files import FieldDisk
from msrt.world.memory import MemoryDisk


class FieldRig:
    """SQLite and files in a temporary directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.disk = FieldDisk(path)

    def crash(self) -> None:
        """Forget the process's objects and open the directory again."""
        self.disk.close()
        self.disk = FieldDisk(self.path)

    def full(self, on: bool) -> None:
        writer = self.disk.store("s")._writer
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages if on else 1 << 30}")

    def close(self) -> None:
        self.disk.close()


class MemoryRig:
    """The simulated disk."""

    def __init__(self, _path: Path) -> None:
        self.disk = MemoryDisk()

    def crash(self) -> None:
        self.disk = self.disk.crash()

    def full(self, on: bool) -> None:
        self.disk.full = on

    def close(self) -> None:
        pass


@pytest.fixture(params=[FieldRig, MemoryRig], ids=["field", "memory"])
def rig(request, tmp_path):
    made = request.param(tmp_path / "state")
    yield made
    made.close()
