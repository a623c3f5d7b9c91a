"""The whole flash of an ESP32 by the boot loader in its ROM: the program esptool, which knows each of these chips."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from typing import Final

from msrt.cli import MissingExtra
from msrt_device.flash.serial.files import BoardFailed

__all__ = ["write_chip"]

ATTEMPTS: Final = 3
WRITE_S: Final = 600.0
_HASH: Final = re.compile(r"hash of data verified", re.IGNORECASE)


def write_chip(port: str, flash: bytes, begins: int, progress: Callable[[str, int, int], None]) -> None:
    """Write and have it verified: the chip's own hash of what is in its flash. Raises BoardFailed, MissingExtra."""
    if find_spec("esptool") is None:
        raise MissingExtra("device flash to an ESP32", "esptool", "flash")
    progress("write", 0, len(flash))
    with tempfile.NamedTemporaryFile(prefix="msrt-flash-", suffix=".bin") as file:
        file.write(flash)
        file.flush()
        argv = [sys.executable, "-m", "esptool", "--port", port, "--connect-attempts", str(ATTEMPTS)]
        argv += ["write-flash", hex(begins), file.name]
        try:
            done = subprocess.run(  # noqa: S603 - a program of our own extra
                argv, capture_output=True, text=True, timeout=WRITE_S, check=False, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            raise BoardFailed(f"the chip at {port} was not written within {WRITE_S:g} s") from None
    if done.returncode or not _HASH.search(done.stdout):
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        wrong = next((line for line in said if "error" in line.lower()), said[-1] if said else "esptool said nothing")
        raise BoardFailed(
            f"the chip at {port} cannot be written: {wrong}", hint="hold its BOOT button, press RESET, and try again"
        )
    progress("write", len(flash), len(flash))
    progress("verify", len(flash), len(flash))
