"""The firmware's engine built for this machine."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from msrt_device.flash.targets.cortex_m import SOURCES

FLAGS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror")


def compiler() -> str:
    """The machine's own, or a visible skip."""
    found = shutil.which("cc") or shutil.which("gcc")
    if found is None:
        pytest.skip("no C compiler here")
    return found


class Engine:
    """engine.c and kernels.c behind ctypes."""

    def __init__(self, folder: Path) -> None:
        library = folder / "engine.so"
        units = [str(SOURCES / name) for name in ("engine.c", "kernels.c", "frame.c", "sha256.c")]
        subprocess.run([compiler(), *FLAGS, "-shared", "-fPIC", *units, "-o", str(library)], check=True)
        self.library = ctypes.CDLL(str(library))
        self.library.engine_open.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
        self.library.engine_run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]

    def open(self, board: bytes, arena: int) -> tuple[int, ctypes.Array, np.ndarray]:
        """Result, model, and the blob's bytes, which must live as long."""
        kept, model = np.frombuffer(board, np.uint8).copy(), (ctypes.c_uint64 * 16)()
        return self.library.engine_open(model, kept.ctypes.data, len(kept), arena), model, kept

    def run(self, blob, rows: np.ndarray) -> np.ndarray:
        """As `interpret`."""
        result, model, _kept = self.open(blob.board, blob.arena)
        assert result == 0, result
        arena = np.zeros(max(blob.arena, 1), np.int8)
        (at, size), (out, count), found = blob.input, blob.output, []
        for row in rows:
            arena[at : at + size] = row
            self.library.engine_run(model, arena.ctypes.data, None)
            found.append(arena[out : out + count].copy())
        return np.array(found)
