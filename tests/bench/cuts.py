"""A whole system over the air to a board in an emulator: good ones, ones that are broken, and the power cut at random.

`python -m tests.bench cuts`. One board goes through all of it, one update after the other, as boards do. A cut takes
with it what the board has not flushed (see tests.processes.machine).
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

from msrt_device.flash.linux.run import find_tool
from msrt_device.flash.targets import load_target
from tests.bench.table import Row
from tests.bench.tree import Tree, until
from tests.processes.boards import Site, built
from tests.processes.machine import EMULATOR
from tests.processes.systems import FAULTS

CUTS = 20
BOOT_S = 300.0
TARGET = "linux-amd64-uefi"


def rows() -> list[Row]:
    """What cannot be run here is said to be skipped."""
    if find_tool(EMULATOR["amd64"]) is None or load_target(TARGET).needs():
        return [Row("a system over the air", None, "", peer="skipped: tools are missing here")]
    with tempfile.TemporaryDirectory(prefix="msrt-bench-cuts-") as folder:
        base, packed = built("amd64", Path(folder))
        with Tree() as tree, Site(tree, base, packed) as site:
            site.answered()
            good, took = _good(site)
            return [*good, *_broken(site), *_cuts(site, took)]


def _good(site: Site) -> tuple[list[Row], float]:
    name = site.push("good")
    began = time.perf_counter()
    site.ask("update.rollout", name=name)
    until("it is written", lambda: site.stage(name) in {"writing", "waiting"}, 300)
    fetched_s, fetched = time.perf_counter() - began, site.fetched(name)
    site.ended(name)
    took = time.perf_counter() - began
    site.answered()
    size = site.systems.size
    return [
        Row("system over the air: from the rollout until it is in force (TCG)", took, "s",
            peer=f"{fetched_s:.0f} s of it to fetch"),
        Row("the same: bytes fetched / all, a file of its root is another one", fetched / size, "", "<=", 0.15,
            f"{fetched / 1e6:.2f} of {size / 1e6:.0f} MB"),
    ], took  # fmt: skip


def _broken(site: Site) -> list[Row]:
    back = once = 0
    reasons = []
    before = site.running()
    for fault in FAULTS:
        name = site.push(fault, fault)
        site.ask("update.rollout", name=name)
        site.ended(name)
        site.answered()
        until("what became of it is told", lambda fault=fault: site.outcomes(fault), 60)
        back += site.running() == before
        told = site.outcomes(fault)
        once += [outcome for outcome, _ in told] == ["failed"]
        reasons.append(f"{fault}: {told[0][1]}")
        sys.stderr.write(f"{reasons[-1]}\n")
    what = f"systems with a broken {', '.join(FAULTS)}"
    return [
        Row(f"{what}: back on the old version", float(back), "", ">=", float(len(FAULTS)), "; ".join(reasons)),
        Row(f"{what}: reported once", float(once), "", ">=", float(len(FAULTS))),
    ]


def _cuts(site: Site, took: float) -> list[Row]:
    """Each at a moment drawn from the time that an update takes; one that is not over yet goes on after it."""
    draw, told_once, bricked, back, lost = random.Random(5), 0, 0, 0, []
    name, number = "", 0
    for _ in range(CUTS):
        if not name:
            number += 1
            name, before = site.push(f"cut{number}"), site.running()
            site.ask("update.rollout", name=name, errors=1.0, success=0.5)
        time.sleep(draw.uniform(0.0, took))
        lost.append(site.stage(name) or "pending")
        site.power_cycle()
        try:
            site.answered(BOOT_S)
        except TimeoutError:
            bricked += 1
            break
        back += site.running() in {before, f"cut{number}"}
        sys.stderr.write(f"cut {len(lost)} of {CUTS}, {name} {lost[-1]}: back\n")
        if site.outcomes(f"cut{number}"):
            told_once += _once(site, name, number, before)
            name = ""
    if name and not bricked:
        site.ended(name)
        site.answered()
        told_once += _once(site, name, number, before)
    what = f"power cut at {CUTS} random points"
    stages = f"{number} updates: " + ", ".join(f"{lost.count(stage)} {stage}" for stage in sorted(set(lost)))
    return [
        Row(f"{what}: on the old version, or on the new one proven", float(back), "", ">=", float(CUTS), stages),
        Row(f"{what}: each update reported once", float(told_once), "", ">=", float(number)),
        Row(f"{what}: bricked", float(bricked), "", "<=", 0.0),
    ]


def _once(site: Site, name: str, number: int, before: str) -> bool:
    """One word of it, and the board runs what that says."""
    until("what became of it is told", lambda: site.outcomes(f"cut{number}"), 120)
    site.ended(name)
    outcomes = [outcome for outcome, _ in site.outcomes(f"cut{number}")]
    return outcomes == (["done"] if site.running() == f"cut{number}" else ["failed"]) and bool(before)
