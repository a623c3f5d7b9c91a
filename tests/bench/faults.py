"""A parameter server of sixteen workers, one of which is killed, stalled or cut off every ten seconds.

Killed: SIGKILL of the device's process, its job's process dies with it, and both are started again. Stalled: the job's
process is stopped for three seconds. Cut off: the device's process is stopped for three seconds, so that its edge hears
nothing of it while its job computes on. A step lasts as long as it sleeps; beside it the same where steps are bound by
the processor. `python -m tests.bench faults` prints the rows; FAULTS_S in the environment makes it shorter.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Final, Self

from tests.bench.parameters import Curve, bundle
from tests.bench.table import Row
from tests.bench.tree import MSRT, Proc, Tree, until

WORKERS: Final = 16
SECONDS = float(os.environ.get("FAULTS_S", "300"))
EVERY_S, LASTS_S = 10.0, 3.0
STEP_S, STEPS = 0.5, 10
"""A round takes five seconds."""
FREE_S, BOUND_S = min(60.0, SECONDS), min(40.0, SECONDS)
BOUND_STEP_S = 0.02
"""Of processor time."""
SETTLED = 1
"""Rounds at the beginning that are not timed."""
MODE: Final = 'mode = "async"'


class Faults:
    """One fault after another, in a thread, while the block lasts."""

    def __init__(self, tree: Tree) -> None:
        self._tree, self._over, self.count = tree, threading.Event(), 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        kinds = (self._kill, self._stall, self._cut)
        due = time.monotonic() + EVERY_S
        while not self._over.wait(max(0.0, due - time.monotonic())):
            kinds[self.count % len(kinds)](f"d{(5 * self.count) % WORKERS}")
            self.count += 1
            due += EVERY_S

    def _kill(self, name: str) -> None:
        self._tree.procs[name].popen.kill()
        self._tree.procs[name].popen.wait()
        start(self._tree, name)

    def _stall(self, name: str) -> None:
        self._stopped(runners(self._tree.procs[name]))

    def _cut(self, name: str) -> None:
        self._stopped([self._tree.procs[name].pid])

    def _stopped(self, pids: list[int]) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        self._over.wait(LASTS_S)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def runners(device: Proc) -> list[int]:
    """Processes below a device of ours: those of its jobs, and what they came from."""
    found = [device.pid]
    for pid in found:
        path = Path(f"/proc/{pid}/task/{pid}/children")
        with contextlib.suppress(OSError):
            found += [int(child) for child in path.read_text().split()]
    return found[1:]


def start(tree: Tree, name: str, *invite: str) -> Proc:
    """Start a device without waiting for it."""
    argv = [MSRT, "device", "join", *invite, "--name", name, "--state", str(tree.path / name)]
    tree.procs[name] = Proc(argv, tree.path / f"{name}.log")
    return tree.procs[name]


def run(
    tree: Tree, name: str, rounds: int, *, step_s: float = STEP_S, bound: bool = False, faults: bool = False
) -> Curve:
    """One job to its end, with faults from its first round on."""
    folder = bundle(tree, name, MODE, rounds=rounds, steps=STEPS, workers=WORKERS, step_s=step_s, bound=bound)
    report = tree.path / f"{name}.json"
    argv = [MSRT, "train", "run", str(folder), "--report", str(report), "--state", str(tree.path / "cloud")]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as job:
        if faults:
            until(f"{name} trains", lambda: _round(tree, name) >= SETTLED, 120)
            with Faults(tree):
                _, said = job.communicate(timeout=2 * SECONDS + 120)
        else:
            _, said = job.communicate(timeout=2 * SECONDS + 120)
    if job.returncode:
        raise RuntimeError(said)
    return Curve(json.loads(report.read_text())["rounds"])


def _round(tree: Tree, job: str) -> int:
    with contextlib.suppress(RuntimeError):
        return int(json.loads(tree.cli("train", "status", job, "--json"))[0]["round"])
    return 0


def rows() -> list[Row]:
    """Throughput with faults over that without, and the loss after the same number of pushes."""
    with Tree() as tree:
        for region in ("north", "south"):
            tree.edge(f"edge-{region}", region)
        for number in range(WORKERS):
            start(tree, f"d{number}", tree.invite("device", "--region", ("north", "south")[number % 2]))
            tree.procs[f"d{number}"].ready()
        rounds = max(4, round(SECONDS / (STEP_S * STEPS)))
        free = run(tree, "free", max(4, round(FREE_S / (STEP_S * STEPS))))
        hit = run(tree, "faults", rounds, faults=True)
        same = run(tree, "same", rounds, step_s=STEP_S / 10)
        every = max(4, round(BOUND_S * _cores() / (BOUND_STEP_S * STEPS * WORKERS)))
        bound = run(tree, "bound", every, step_s=BOUND_STEP_S, bound=True)
        bound_hit = run(tree, "bound-faults", every, step_s=BOUND_STEP_S, bound=True, faults=True)
    kept = 100 * hit.speed(SETTLED) / free.speed(SETTLED)
    bound_kept = 100 * bound_hit.speed(SETTLED) / bound.speed(SETTLED)
    what = f"{WORKERS} workers for {SECONDS:g} s, every {EVERY_S:g} s one killed, stalled or cut off"
    return [
        Row(f"{what}: of fault-free throughput", kept, "%", ">=", 93.0,
            f"{hit.speed(SETTLED):.1f} of {free.speed(SETTLED):.1f} pushes/s; bound by the processor "
            f"{bound_kept:.1f} %, {bound_hit.speed(SETTLED):.1f} of {bound.speed(SETTLED):.1f}"),
        Row(f"{what}: loss after as many pushes, beside that without faults", 100 * abs(hit.loss / same.loss - 1), "%",
            "<=", 2.0, f"{hit.loss:.4f}, {same.loss:.4f}"),
    ]  # fmt: skip


def _cores() -> int:
    return len(os.sched_getaffinity(0))
