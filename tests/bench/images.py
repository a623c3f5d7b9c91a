"""Our images in emulators, from the power switch to an answered inference. `python -m tests.bench images`."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

from msrt_device.flash.linux.run import find_tool
from msrt_device.flash.targets import load_target
from tests.bench.table import Row
from tests.bench.tree import BODY, MSRT, Tree, post, until
from tests.processes.machine import EMULATOR, HOST, Machine

GIB = 2**30
MB = 1e6
BOOT_S = 600


def rows() -> list[Row]:
    """An image that cannot be built or started here is said to be skipped."""
    found: list[Row] = []
    for architecture, limit in (("amd64", 75.0), ("arm64", 120.0)):
        name = f"linux-{architecture}-uefi"
        if find_tool(EMULATOR[architecture]) is None or load_target(name).needs():
            found.append(Row(f"{name}: from power-on to an answer", None, "", peer="skipped: tools are missing here"))
            continue
        with tempfile.TemporaryDirectory(prefix="msrt-bench-images-") as folder:
            found += _image(name, architecture, limit, Path(folder))
    return found


def _image(name: str, architecture: str, limit: float, folder: Path) -> list[Row]:
    base, medium = folder / "base.img.zst", folder / "medium.img"
    began = time.perf_counter()
    _msrt("device", "image", name, "-o", str(base))
    build_s = time.perf_counter() - began
    with Tree() as tree:
        edge = tree.edge("e1", "north", "--set", f"advertise={HOST}")
        tree.push()
        with medium.open("wb") as file:
            file.truncate(4 * GIB)
        invite = tree.invite("device", "--region", "north")
        _msrt("device", "flash", str(base), str(medium), "--yes")
        began = time.perf_counter()
        _msrt("device", "flash", str(medium), "--identity-only", "--invite", invite, "--yes")
        identity_s = time.perf_counter() - began
        url = edge.field("http").replace(HOST, "127.0.0.1")
        began = time.perf_counter()
        with Machine(architecture, medium, folder) as machine:
            until("an answer", lambda: post(f"{url}/v2/models/mlp/infer", BODY)[0] == 200, BOOT_S)
            boot_s, cpu_s = time.perf_counter() - began, machine.cpu_s()
    beside = f"the emulator used {cpu_s:.0f} s of two processors"
    return [
        Row(f"{name}: power-on to the first answered inference (TCG)", boot_s, "s", "<=", limit, beside),
        Row(f"{name}: base image, zstd, with onnxruntime", base.stat().st_size / MB, "MB", "<=", 160.0),
        Row(f"{name}: identity written to a medium and read back", identity_s, "s", "<=", 2.0),
        Row(f"{name}: built and packed", build_s, "s"),
    ]


def _msrt(*argv: str) -> None:
    subprocess.run([MSRT, *argv], check=True, capture_output=True, timeout=1800)
