"""A supervised device in a tree of processes, and images for it: good ones, and ones that break in one way each."""

from __future__ import annotations

import io
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

from msrt.operator.session import ask
from msrt_device.updater import launcher
from msrt_device.updater.command import COPY, install
from msrt_device.updater.packing import pack_agent
from tests.bench.tree import Proc, Tree, until

QUICK = ("--set", "update_trial_s=20", "--set", "update_idle_s=0.2")

BROKEN = {
    "crashes": "import sys; sys.exit(3)\n",
    "hangs": "import time\ntime.sleep(3600)\n",
    "deaf": "import asyncio, sys, pathlib\n"
    "sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / 'site'))\n"
    "from msrt.hop.uplink import Uplink\n"
    "Uplink.run = lambda self: asyncio.Event().wait()\n",
}
"""What the program of an image does before the agent's own."""


class Site:
    """A cloud, an edge, and one device under a launcher whose agent is version 1."""

    def __init__(self, tree: Tree, *flags: str) -> None:
        self.tree, self.root = tree, tree.path / "agent"
        self.flags = flags
        tree.edge("e1", "north")
        self.image = tree.path / "agent-1.tar"
        pack_agent(self.image, alone=True)
        install(self.root, self.image, "1")
        self.arguments = ["device", "join", tree.invite("device", "--region", "north"), "--name", "d1"]
        self.start()

    def start(self) -> Proc:
        argv = [sys.executable, str(self.root / COPY), str(self.root), *self.arguments]
        argv += ["--state", str(self.tree.path / "d1"), *QUICK, *self.flags]
        proc = self.tree.procs["d1"] = Proc(argv, self.tree.path / f"d1-{len(self.tree.procs)}.log")
        self.arguments = ["device", "join"]
        return proc.ready(90)

    def power_cut(self) -> None:
        """Launcher and agent are gone at once; the agent's end follows from the launcher's, by the kernel."""
        proc = self.tree.procs["d1"]
        children = Path(f"/proc/{proc.pid}/task/{proc.pid}/children").read_text().split()
        proc.popen.kill()
        proc.popen.wait()
        until("the agent ended with it", lambda: not any(Path(f"/proc/{child}").exists() for child in children))

    def made(self, version: str, how: str = "") -> Path:
        """An image of another version, with a fault of that name."""
        out = self.tree.path / f"agent-{version}.tar"
        with tarfile.open(self.image) as source, tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as to:
            for member in source.getmembers():
                data = source.extractfile(member).read()
                if member.name == "agent.py" and how:
                    data = BROKEN[how].encode() + data
                member.size = len(data)
                to.addfile(member, io.BytesIO(data))
            extra = tarfile.TarInfo("site/msrt/version.txt")
            extra.size = len(version)
            to.addfile(extra, io.BytesIO(version.encode()))
        return out

    def ask(self, method: str, **params: object) -> Any:
        """As the operator's commands do, without a process for each."""
        return ask(self.tree.path / "cloud", lambda cloud: cloud(method, **params))

    def push(self, version: str, how: str = "") -> str:
        self.tree.cli("update", "push", str(self.made(version, how)), "--kind", "agent", "--version", version)
        return f"agent@{version}"

    def ended(self, name: str, timeout_s: float = 60.0) -> dict[str, Any]:
        """The campaign's row once it is over."""

        def over() -> bool:
            time.sleep(0.2)
            return self.ask("update.status", name=name)[0]["state"] in {"done", "stopped"}

        until(f"{name} ends", over, timeout_s)
        return self.ask("update.status", name=name)[0]

    def in_force(self) -> str:
        return launcher.whole(self.root, launcher.committed(self.root))["version"]

    def running(self) -> str:
        """The version that the device says it runs."""
        time.sleep(0.1)
        row = next(row for row in self.ask("node.list") if row["name"] == "d1")
        return row["agent"] if row["alive"] else ""

    def outcomes(self) -> list[dict[str, Any]]:
        """What the cloud was told of how updates ended."""
        events = self.ask("events.after", after=0, wait_s=0.1)["events"]
        return [event["data"] for event in events if event["source"] == "updater"]
