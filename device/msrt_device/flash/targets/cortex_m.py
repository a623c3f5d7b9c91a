"""Firmware for Arm Cortex-M: C sources that are shipped with this package, built by gcc-arm-none-eabi."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

from msrt.errors import InvalidConfig, LocalError
from msrt_device.flash.targets import MissingTools, Progress

__all__ = ["TARGET", "CortexM"]

COMPILER: Final = "arm-none-eabi-gcc"
OBJCOPY: Final = "arm-none-eabi-objcopy"
BUILD_S: Final = 120.0
FLAGS: Final = (
    "-std=c99", "-O2", "-mcpu=cortex-m3", "-mthumb", "-Wall", "-Wextra", "-Werror", "-ffunction-sections",
    "-fdata-sections", "-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections",
)  # fmt: skip
SOURCES: Final = Path(__file__).parent.parent / "firmware" / "cortex_m"
_SERIAL: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class CortexM:
    """mps2-an385: what QEMU emulates of Arm's board."""

    name: str = "cortex-m"
    title: str = (
        "Arm Cortex-M3 (MPS2 with AN385): a bare agent in C behind `msrt device gateway`; models come over the air, "
        "another firmware does not"
    )
    verified: str = "Booted and served in QEMU (mps2-an385); on no real board."
    options: Mapping[str, str] = {
        "serial": "serial number that the board says of itself; default mps2-1",
        "format": "elf (default), or bin: the bytes of the flash from address 0",
    }

    def needs(self) -> list[str]:
        """The cross compiler and its C library."""
        missing = [tool for tool in (COMPILER, OBJCOPY) if shutil.which(tool) is None]
        return (
            [f"{' and '.join(missing)}: apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi"] if missing else []
        )

    def build(self, options: Mapping[str, str], out: Path, progress: Progress) -> None:
        """Compile and link. Raises MissingTools, InvalidConfig, and LocalError with what the compiler said."""
        if missing := self.needs():
            raise MissingTools(self.name, missing)
        serial, form = options.get("serial", "mps2-1"), options.get("format", "elf")
        if _SERIAL.fullmatch(serial) is None:
            raise InvalidConfig(f"serial = {serial!r} is no serial number", hint="letters, digits, . _ : -")
        if form not in ("elf", "bin"):
            raise InvalidConfig(f"format = {form!r}: it is elf or bin")
        draft = out.with_suffix(".draft.elf")
        defines = (f'-DMSRT_VERSION="{version("msrt")}"', f'-DMSRT_SERIAL="{serial}"')
        progress("compile", 0, 1)
        units = map(str, sorted(SOURCES.glob("*.c")))
        _run([COMPILER, *FLAGS, *defines, "-T", str(SOURCES / "link.ld"), *units, "-o", str(draft)])
        if form == "elf":
            draft.replace(out)
        else:
            _run([OBJCOPY, "-O", "binary", str(draft), str(out)])
            draft.unlink()
        progress("compile", 1, 1)


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=BUILD_S, check=False)  # noqa: S603 - our own words
    if done.returncode:
        raise LocalError(f"{argv[0]} failed: {done.stderr.strip()[-1000:]}")


TARGET: Final = CortexM()
