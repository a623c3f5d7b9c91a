"""Our images in an emulator: from the power switch to an answered inference, with the commands that a user has."""

from __future__ import annotations

import subprocess
import time
import tomllib
from pathlib import Path

import pytest

from msrt_device.flash.targets import load_target
from tests.bench.tree import BODY, MSRT, Proc, post, until
from tests.processes.machine import ESP, HOST, MSRTID, Machine, names, need, read_file, write_file

GIB = 2**30
BOOT_S = 600
"""Deadline for a boot, on a machine that is busy with other tests; `make bench` measures one that is not."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def msrt(*argv: str) -> str:
    done = subprocess.run([MSRT, *argv], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def built(architecture: str, folder: Path) -> Path:
    """A base image; skips visibly where it cannot be made."""
    need(architecture)
    name = f"linux-{architecture}-uefi"
    if missing := load_target(name).needs():
        pytest.skip(f"{name} cannot be built here: {'; '.join(missing)}")
    done = subprocess.run(
        [MSRT, "device", "image", name, "-o", str(folder / "base.img")],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    if "unable to fetch" in done.stderr.lower() or "apt-get update" in done.stderr:
        pytest.skip(f"no Debian mirror can be reached: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    return folder / "base.img"


def loopback(edge: Proc) -> str:
    """The edge's HTTP for us: what it advertises is for the machine in the emulator."""
    return edge.field("http").replace(HOST, "127.0.0.1")


def answered(url: str, machine: Machine, deadline_s: float = BOOT_S) -> float:
    """Seconds until the edge answers by that machine's worker."""
    began = time.monotonic()

    def answer() -> bool:
        assert machine.running(), machine.said()[-2000:]
        return post(f"{url}/v2/models/mlp/infer", BODY)[0] == 200

    until("an answered inference", answer, deadline_s)
    return time.monotonic() - began


def a_system_that_panics(medium: Path, scratch: Path) -> None:
    """On trial in slot b, once; by the kernel of slot a."""
    entry = read_file(medium, ESP, "loader/entries/msrt-a.conf", scratch / "entry")
    broken = entry.replace("version 1", "version 2").replace("options ", "options rdinit=/broken ")
    write_file(medium, ESP, "loader/entries/msrt-b+1.conf", broken, scratch)


def test_a_flashed_amd64_image_boots_enrols_and_answers(tree, tmp_path):
    """The claim is spent at its edge and gone from the medium. A second boot needs none: not even one that first tries
    a new system whose kernel panics, which the boot loader counts and passes over."""
    base = built("amd64", tmp_path)
    edge = tree.edge("e1", "north", "--set", f"advertise={HOST}", "--set", "lease_s=20.0")
    tree.push()
    medium = tmp_path / "medium.img"
    with medium.open("wb") as file:
        file.truncate(4 * GIB)
    invite = tree.invite("device", "--region", "north")
    msrt("device", "flash", str(base), str(medium), "--invite", invite, "--name", "board-1", "--yes")
    with Machine("amd64", medium, tmp_path) as machine:
        answered(loopback(edge), machine)
        said = tomllib.loads(read_file(medium, MSRTID, "identity.toml", tmp_path / "identity"))
        assert said == {"spent": True, "name": "board-1", "region": "north"}
        machine.cut_power()
        a_system_that_panics(medium, tmp_path)
        machine.power_on()
        answered(loopback(edge), machine)
        assert "Kernel panic" in machine.said()
        assert names(medium, ESP, "loader/entries") == {"msrt-a.conf", "msrt-b+0-1.conf"}
