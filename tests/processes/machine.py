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
ESP, MSRTID = (1 * MIB, 192 * MIB), (193 * MIB, 16 * MIB)
"""Where the two FAT partitions of our images begin, and their sizes."""
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
    """One board with one medium; `log` is what it says on its serial line.

    The medium as it was given is never written to: from each power-on to the next cut, writes go to a qcow2 overlay of
    their own, `disk`. Where they lie in it QEMU keeps in its own memory until the guest flushes its disk, so what was
    not flushed goes with a SIGKILL, as the content of a disk's write cache does.
    """

    def __init__(self, architecture: str, image: Path, folder: Path, *extra: str) -> None:
        self.architecture = architecture
        self.disk, self._format = image, "raw"
        self._folder, self.starts = folder, 0
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
        """From the firmware on."""
        self._overlay()
        board, cpu = BOARD[self.architecture]
        code = FIRMWARE[self.architecture][0]
        argv = [
            EMULATOR[self.architecture], "-machine", board, "-accel", "tcg,thread=multi", "-cpu", cpu, "-smp", "2",
            "-m", "1024", "-nodefaults", "-display", "none",
            "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}",
            "-drive", f"if=pflash,format=raw,unit=1,file={self._variables}",
            "-drive", f"if=none,id=medium,format=qcow2,cache=writeback,l2-cache-size=16M,file={self.disk}",
            "-device", "virtio-blk-pci,drive=medium,bootindex=0",
            "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
            "-device", "virtio-rng-pci", "-chardev", f"file,id=serial,append=on,path={self.log}",
            "-serial", "chardev:serial", *self._extra,
        ]  # fmt: skip
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)

    def _overlay(self) -> None:
        self.starts += 1
        top = self._folder / f"power-{self.starts}.qcow2"
        base = ["-b", str(self.disk.absolute()), "-F", self._format]
        run(["qemu-img", "create", "-q", "-f", "qcow2", *base, str(top)])
        self.disk, self._format = top, "qcow2"

    def partition(self, start: int, size: int) -> Path:
        """A copy of a part of the medium: of what the machine has told it to keep, as long as the power is on."""
        out = self._folder / "partition"
        out.unlink(missing_ok=True)
        blocks = [f"bs={MIB}", f"skip={start // MIB}", f"count={(start + size) // MIB}"]  # counted from the beginning
        run(["qemu-img", "dd", "-U", "-f", self._format, "-O", "raw", *blocks, f"if={self.disk}", f"of={out}"])
        return out

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


def read_file(machine: Machine, partition: tuple[int, int], name: str) -> str:
    """A file of one of the FAT partitions."""
    return run(["mcopy", "-n", "-i", str(machine.partition(*partition)), f"::{name}", "-"])


def names(machine: Machine, partition: tuple[int, int], folder: str) -> set[str]:
    """The files of a folder of one of the FAT partitions."""
    listed = run(["mdir", "-b", "-i", str(machine.partition(*partition)), f"::{folder}"])
    return {line.rpartition("/")[2] for line in listed.split()}
