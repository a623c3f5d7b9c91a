"""A machine in QEMU that boots an image as a real one would: firmware, boot loader, kernel. No KVM is needed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from msrt_device.flash.linux.run import find_tool, run

HOST = "10.0.2.2"
"""Where a guest of QEMU's user network finds the loopback of the machine it runs on."""
MIB = 2**20
ESP, MSRTID = 1 * MIB, 193 * MIB
"""Where the two FAT partitions of our images begin."""
FIRMWARE = {
    "amd64": ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    "arm64": ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
}
EMULATOR = {"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}
BOARD = {"amd64": ("q35", "Nehalem"), "arm64": ("virt", "cortex-a72")}
"""Machine and CPU. A CPU without AVX: emulated, wide registers are slow."""
PACKAGES = {"amd64": "qemu-system-x86 ovmf", "arm64": "qemu-system-arm qemu-efi-aarch64"}


def need(architecture: str) -> None:
    """Skip a test, visibly, where such a machine cannot be had."""
    if find_tool(EMULATOR[architecture]) is None or not Path(FIRMWARE[architecture][0]).exists():
        pytest.skip(f"no emulator: apt install {PACKAGES[architecture]}")


class Machine:
    """One board with one medium; `log` is what it says on its serial line."""

    def __init__(self, architecture: str, image: Path, folder: Path, *extra: str) -> None:
        self.architecture = architecture
        self.image = image
        self.log = folder / "serial.log"
        self._variables = folder / "variables.fd"
        self._extra = extra
        self._process: subprocess.Popen[bytes] | None = None
        if not self._variables.exists():
            shutil.copyfile(FIRMWARE[architecture][1], self._variables)

    def __enter__(self) -> Self:
        self.power_on()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut_power()

    def power_on(self) -> None:
        """From the firmware on; what the medium was told to keep is kept when the power is cut (writethrough)."""
        board, cpu = BOARD[self.architecture]
        code = FIRMWARE[self.architecture][0]
        argv = [
            EMULATOR[self.architecture], "-machine", board, "-accel", "tcg,thread=multi", "-cpu", cpu, "-smp", "2",
            "-m", "1024", "-nodefaults", "-display", "none",
            "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}",
            "-drive", f"if=pflash,format=raw,unit=1,file={self._variables}",
            "-drive", f"if=none,id=medium,format=raw,cache=writethrough,file={self.image}",
            "-device", "virtio-blk-pci,drive=medium,bootindex=0",
            "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
            "-device", "virtio-rng-pci", "-chardev", f"file,id=serial,append=on,path={self.log}",
            "-serial", "chardev:serial", *self._extra,
        ]  # fmt: skip
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def cpu_s(self) -> float:
        """Seconds of processor that the emulation has used since it was switched on."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def cut_power(self) -> None:
        """At once, whatever it is doing."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def read_file(image: Path, partition: int, name: str, to: Path) -> str:
    """A file of one of the FAT partitions."""
    run(["mcopy", "-n", "-o", "-i", f"{image}@@{partition}", f"::{name}", str(to)])
    return to.read_text(errors="replace")


def write_file(image: Path, partition: int, name: str, text: str, scratch: Path) -> None:
    draft = scratch / "draft"
    draft.write_text(text)
    run(["mcopy", "-o", "-i", f"{image}@@{partition}", str(draft), f"::{name}"])


def names(image: Path, partition: int, folder: str) -> set[str]:
    """The files of a folder of one of the FAT partitions."""
    listed = run(["mdir", "-b", "-i", f"{image}@@{partition}", f"::{folder}"])
    return {line.rpartition("/")[2] for line in listed.split()}
