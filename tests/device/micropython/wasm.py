"""The official MicroPython in WebAssembly, under node: what is here of it, and how it is started."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from msrt_device.flash.targets.micropython import SOURCES

PACKAGE = "@micropython/micropython-webassembly-pyscript"
HOST = Path(__file__).with_name("host.mjs")


def package() -> Path:
    """Where `.ci/run` puts it."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "msrt", "npm", "node_modules", PACKAGE)


def lacking() -> str:
    """What is missing here to run it; empty: nothing."""
    if shutil.which("node") is None:
        return "no node here"
    return "" if package().is_dir() else f"no {PACKAGE} here: .ci/run installs it"


def command(*argv: str) -> list[str]:
    """Of `host.mjs`, or a visible skip."""
    if why := lacking():
        pytest.skip(why)
    return ["node", str(HOST), str(package()), str(SOURCES), *argv]


def run(folder: Path, board: bytes, rows: np.ndarray, outputs: int) -> np.ndarray:
    """As `interpret`, in MicroPython."""
    blob, given = folder / "blob", folder / "rows"
    blob.write_bytes(board)
    given.write_bytes(rows.tobytes())
    argv = command("run", str(blob), str(given))
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return np.frombuffer(bytes.fromhex(done.stdout), np.int8).reshape(len(rows), outputs)


class WasmBoard:
    """An agent in a MicroPython of its own, behind a TCP port: what `Board` is for the firmware in QEMU."""

    def __init__(self, port: int, log: Path) -> None:
        self.port, self.log = port, log
        self.start()

    def start(self) -> None:
        argv = command("serve", str(self.port), "wasm-1")
        with self.log.open("ab") as said:
            self.popen = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True
            )
        assert self.popen.stdout is not None
        assert self.popen.stdout.readline().strip() == str(self.port), self.log.read_text()

    def reset(self) -> None:
        """It begins anew, as by its button."""
        self.kill()
        self.start()

    def kill(self) -> None:
        self.popen.kill()
        self.popen.communicate()
