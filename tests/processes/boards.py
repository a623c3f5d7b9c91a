"""A tree of processes with one board in an emulator, flashed from a base image as a user would, and systems for it."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import pytest

from msrt.operator.session import ask
from msrt_device.flash.linux.root import ROOTFS
from msrt_device.flash.linux.run import run
from msrt_device.flash.targets import load_target
from tests.bench.tree import BODY, MSRT, Tree, post, until
from tests.processes.machine import ESP, HOST, MIB, Machine, names, need
from tests.processes.systems import Systems, lay_over

__all__ = ["BOOT_S", "Site", "built"]

GIB = 2**30
BOOT_S = 600
"""Deadline for a boot, on a machine that is busy with other tests; `make bench` measures one that is not."""
UPDATE_S = 1200
ROOT_A = 209 * MIB
UNIT = "etc/systemd/system/msrt-device.service"
QUICK = "--set update_trial_s=150 --set update_idle_s=0.5"
"""An emulated board needs its time to start, and nobody needs to wait for it longer."""


def built(architecture: str, folder: Path) -> tuple[Path, Path]:
    """A base image, and its system as it is sent over the air; skips visibly where they cannot be made."""
    need(architecture)
    name = f"linux-{architecture}-uefi"
    if missing := load_target(name).needs():
        pytest.skip(f"{name} cannot be built here: {'; '.join(missing)}")
    base, packed = folder / "base.img", folder / "system.tar"
    done = subprocess.run(
        [MSRT, "device", "image", name, "-o", str(base), "--set", f"update={packed}"],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    if "unable to fetch" in done.stderr.lower() or "apt-get update" in done.stderr:
        pytest.skip(f"no Debian mirror can be reached: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    return base, packed


class Site:
    """A cloud, an edge, and a board that is switched on within the block."""

    def __init__(self, tree: Tree, base: Path, packed: Path, architecture: str = "amd64") -> None:
        self.tree, self.folder = tree, tree.path / "board"
        self.folder.mkdir()
        self._pattern = {"amd64": "x86_64-*", "arm64": "aarch64-*"}[architecture]
        files = {f"/{UNIT}": (ROOTFS / UNIT).read_text().replace("--metrics off", f"--metrics off {QUICK}")}
        self.systems = Systems(packed, self.folder, files)
        edge = tree.edge("e1", "north", "--set", f"advertise={HOST}", "--set", "lease_s=20.0")
        tree.push()
        self.url = edge.field("http").replace(HOST, "127.0.0.1")
        self.machine = Machine(architecture, self._medium(base, files), self.folder)

    def _medium(self, base: Path, files: dict[str, str]) -> Path:
        medium, draft = self.folder / "medium.img", self.folder / "base.img"
        with medium.open("wb") as file:
            file.truncate(4 * GIB)
        run(["cp", "--sparse=always", str(base), str(draft)])
        lay_over(draft, ROOT_A, files, self.folder)
        invite = self.tree.invite("device", "--region", "north")
        argv = ["device", "flash", str(draft), str(medium), "--invite", invite, "--name", "board-1", "--yes"]
        subprocess.run([MSRT, *argv], check=True, capture_output=True, timeout=900)
        draft.unlink()
        return medium

    def __enter__(self) -> Self:
        self.machine.power_on()
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.cut_power()

    # --- the board ---------------------------------------------------------------------------------------------------

    def answers(self) -> bool:
        assert self.machine.running(), self.machine.said()[-2000:]
        return post(f"{self.url}/v2/models/mlp/infer", BODY)[0] == 200

    def answered(self, deadline_s: float = BOOT_S) -> float:
        """Seconds until the edge answers by this board."""
        began = time.monotonic()
        until("an answered inference", self.answers, deadline_s)
        return time.monotonic() - began

    def power_cycle(self, off: float = 0.0) -> None:
        """The power is cut, and is back; the edge knows that the board was away before anything else is asked."""
        self.machine.cut_power()
        time.sleep(off)
        self.machine.power_on()

    def entries(self) -> set[str]:
        """What the boot loader would find."""
        return names(self.machine, ESP, "loader/entries")

    # --- updates -----------------------------------------------------------------------------------------------------

    def ask(self, method: str, **params: object) -> Any:
        """As the operator's commands do, without a process for each."""
        return ask(self.tree.path / "cloud", lambda cloud: cloud(method, **params))

    def push(self, version: str, fault: str = "") -> str:
        """A system with a fault of that name; what it is rolled out by."""
        image = self.systems.made(version, fault)
        argv = ["--kind", "system", "--version", version, "--class", self._pattern]
        self.tree.cli("update", "push", str(image), *argv, timeout_s=900)
        image.unlink()
        return f"system@{version}"

    def row(self, name: str) -> dict[str, Any]:
        """The campaign as `msrt update status NAME --json` shows it."""
        rows = json.loads(self.tree.cli("update", "status", name, "--json"))
        return dict(rows[0])

    def stage(self, name: str) -> str:
        """Of the board."""
        return str(self.ask("update.status", name=name)[0]["nodes"][0].get("stage", ""))

    def ended(self, name: str, timeout_s: float = UPDATE_S) -> dict[str, Any]:
        """The campaign once it is over."""

        def over() -> bool:
            time.sleep(0.5)
            assert self.machine.running(), self.machine.said()[-2000:]
            return self.ask("update.status", name=name)[0]["state"] in {"done", "stopped"}

        until(f"{name} ends", over, timeout_s)
        return self.row(name)

    def running(self, kind: str = "system") -> str:
        """The version of it that the board says it runs; one that is away is waited for."""

        def said() -> str:
            time.sleep(0.2)
            row = next(row for row in self.ask("node.list") if row["name"] == "board-1")
            return str(row["updates"].get(kind, "")) if row["alive"] else ""

        return str(until("the board says what it runs", said, BOOT_S))

    def outcomes(self, version: str) -> list[tuple[str, str]]:
        """What the cloud was told of how an update ended, and why."""
        events = self.ask("events.after", after=0, wait_s=0.1)["events"]
        told = [event["data"] for event in events if event["source"] == "updater"]
        return [(one["outcome"], one["reason"]) for one in told if one["version"] == version]

    def fetched(self, name: str) -> int:
        """Bytes of an image that the board has fetched: those of chunks that it had not."""
        image = next(one for one in self.ask("update.images") if one["name"] == name)
        lines = self.tree.cli("node", "logs", "board-1", "--lines", "2000").splitlines()
        return sum(int(line.partition("fetched=")[2].split()[0]) for line in lines
                   if "artifact.delta " in line and image["digest"] in line)  # fmt: skip
