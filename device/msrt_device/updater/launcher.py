"""Starts the agent from the slot that is due, and goes back to the one in force when a new one does not prove itself.

    python3 launcher.py ROOT ARGUMENT...        runs ROOT/SLOT/agent.py ARGUMENT... until it is told to stop
    python3 launcher.py ROOT --factory FOLDER ARGUMENT...

This file is what an update must never break: it needs Python's own library and nothing else, and runs from a copy of
its own beside the slots. `msrt_device.updater.agent` is the other side, within the agent, and uses the same functions.

    ROOT/a, ROOT/b       the slots: a directory each, with agent.py; slot.json is written last and says it is whole
    ROOT/current         link to the slot in force; replaced by `commit`, in one step
    ROOT/trial.json      there is a trial: slot, version, digest, how many starts are left, seconds for each
    ROOT/fallen.json     the trial that ended badly, and why
    ROOT/factory.json    of which factory the slots are

A factory is the agent of a system that does not change: a folder with agent.py and slot.json. It is in force until
another agent is; when the system is another one, what was in the slots before was not made for it, and goes.

Every change is a file that replaces another one, or a link that does: written beside, fsynced, renamed, the directory
fsynced. In whatever instant the power goes, one slot is in force.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = [
    "GONE", "Due", "committed", "due", "fall", "main", "point", "put", "read", "remove", "run", "settle", "sync_folder",
    "whole",
]  # fmt: skip

SLOTS: Final = ("a", "b")
TRIAL: Final = "trial.json"
FALLEN: Final = "fallen.json"
CURRENT: Final = "current"
WHOLE: Final = "slot.json"
PROGRAM: Final = "agent.py"
SITE: Final = "site"
FACTORY: Final = "factory.json"
EVERY_S: Final = 0.1
STOP_S: Final = 30.0
"""How long an agent may take to stop before it is killed."""
PAUSE_S: Final = (0.5, 60.0)
"""Shortest and longest pause before an agent in force that ended by itself is started again."""
GONE: Final = 77
"""Status of an agent that was decommissioned, and then ours: whoever starts us need not do so again."""
STEADY_S: Final = 60.0
"""An agent that ran so long begins with the shortest pause again."""
PR_SET_PDEATHSIG: Final = 1


class Due(NamedTuple):
    """What is to be started."""

    slot: str
    trial: dict[str, Any]
    """Empty: the slot is in force."""


# --- what lies on the disk ---------------------------------------------------------------------------------------


def sync_folder(path: Path) -> None:
    """What was renamed or removed in it stays so."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def put(path: Path, value: dict[str, Any]) -> None:
    """Replace a file at once."""
    draft = path.with_name(f"{path.name}.new")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def read(path: Path) -> dict[str, Any]:
    """What a file says; {} where there is none, or none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def remove(path: Path) -> None:
    """Have it gone."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_folder(path.parent)


def point(root: Path, slot: str) -> None:
    """Make a slot the one in force."""
    draft = root / f"{CURRENT}.new"
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    draft.symlink_to(slot)
    draft.replace(root / CURRENT)
    sync_folder(root)


def whole(root: Path, slot: str) -> dict[str, Any]:
    """What is in a slot; {} where it is not whole."""
    if slot not in SLOTS or not (root / slot / PROGRAM).is_file():
        return {}
    return read(root / slot / WHOLE)


def committed(root: Path) -> str:
    """The slot in force; empty before the first was written."""
    try:
        name = str((root / CURRENT).readlink())
    except OSError:
        name = ""
    if whole(root, name):
        return name
    # The link or its slot is damaged: whatever is whole, and not on trial, is better than no agent.
    tried = read(root / TRIAL).get("slot")
    return next((slot for slot in SLOTS if slot != tried and whole(root, slot)), "")


def fall(root: Path, trial: dict[str, Any], why: str) -> None:
    """End a trial: the slot in force is due again."""
    put(root / FALLEN, {**trial, "why": why})
    remove(root / TRIAL)


def due(root: Path) -> Due:
    """Which slot to start now; a trial's start is counted, on disk, before this returns. Raises LookupError: none."""
    now, trial = committed(root), read(root / TRIAL)
    if trial and trial.get("slot") == now:  # committed; the power went before the file did
        remove(root / TRIAL)
        trial = {}
    if trial:
        left = trial.get("left", 0)
        if not whole(root, trial.get("slot", "")):
            fall(root, trial, "its slot is not whole")
        elif left <= 0:
            fall(root, trial, trial.get("why") or "it was started and ended before it was committed")
        else:
            trial = {**trial, "left": left - 1}
            put(root / TRIAL, trial)
            return Due(trial["slot"], trial)
    if not now:
        raise LookupError(f"no slot of {root} holds an agent that is whole")
    return Due(now, {})


def settle(root: Path, factory: Path) -> None:
    """Have the agent of this system in force, unless the slots are of this system already. Raises OSError."""
    said = read(factory / WHOLE)
    if read(root / FACTORY) == said and committed(root):
        return
    root.mkdir(parents=True, exist_ok=True)
    remove(root / FACTORY)
    for old in root.iterdir():
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink()
    slot = root / SLOTS[0]
    slot.mkdir()
    shutil.copyfile(factory / PROGRAM, slot / PROGRAM)
    os.sync()
    put(slot / WHOLE, said)
    point(root, SLOTS[0])
    put(root / FACTORY, said)


# --- the agent's process -------------------------------------------------------------------------------------------


def _dies_with_us() -> None:
    """In the child: two agents of one state would be one too many."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _start(root: Path, slot: str, factory: Path | None, arguments: list[str]) -> subprocess.Popen[bytes]:
    folder = root / slot if slot or factory is None else factory
    environment = {**os.environ, "MSRT_SLOTS": str(root), "MSRT_SLOT": slot}
    environment.pop("WATCHDOG_PID", None)  # the signs of life are the agent's to give
    if (folder / SITE).is_dir():
        # Its byte code lies beside the slot, whose files stay as they were written.
        environment["PYTHONPYCACHEPREFIX"] = str(root / f"cache-{slot}")
    command = [sys.executable, str(folder / PROGRAM), *arguments]
    return subprocess.Popen(command, env=environment, preexec_fn=_dies_with_us)  # noqa: S603, PLW1509 - one thread here


def _end(process: subprocess.Popen[bytes]) -> int:
    process.terminate()
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


class _Told:
    """What signals said. They only set a flag."""

    stop = False

    def heard(self, _number: int, _frame: object) -> None:
        self.stop = True


def _say(event: str, **what: object) -> None:
    print(json.dumps({"event": f"launcher.{event}", **what}), file=sys.stderr, flush=True)  # noqa: T201 - it has no log


def _watch(root: Path, process: subprocess.Popen[bytes], start: Due, told: _Told) -> str:
    """Until it ended, or must be ended; why a trial did not hold, empty where it is none (any more)."""
    began, on_trial = time.monotonic(), bool(start.trial)  # noqa: TID251 - no World here: it must not need msrt
    while True:
        if on_trial and committed(root) == start.slot:
            on_trial = False
        try:
            code = process.wait(EVERY_S)
        except subprocess.TimeoutExpired:
            code = None
        if code is not None:
            kind = f"it was killed by signal {-code}" if code < 0 else f"it ended with status {code}"
            return f"{kind} before it was committed" if on_trial and committed(root) != start.slot else ""
        if told.stop:
            _end(process)
            return ""
        if on_trial and time.monotonic() - began > start.trial.get("trial_s", 300.0):  # noqa: TID251
            _end(process)
            return f"it was not committed within {start.trial.get('trial_s'):g} s"


def run(root: Path, arguments: list[str], factory: Path | None = None) -> int:
    """Keep an agent running until SIGTERM or SIGINT, or until the one in force was decommissioned.

    One of a factory does without slots if need be.
    """
    told = _Told()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told.heard)
    pause, ends = PAUSE_S[0], 0
    while not told.stop:
        try:
            start = due(root)
        except (LookupError, OSError) as error:  # a full or failing disk: the agent in force needs no counting
            now = committed(root)
            _say("no_slot" if not now else "not_counted", error=str(error) or type(error).__name__)
            if not now and factory is None:
                return 1
            start = Due(now, {})
        _say("starts", slot=start.slot, version=whole(root, start.slot).get("version", ""), trial=bool(start.trial))
        began = time.monotonic()  # noqa: TID251
        process = _start(root, start.slot, factory, arguments)
        why = _watch(root, process, start, told)
        if told.stop:
            break
        if why:
            _say("trial_failed", slot=start.slot, why=why)
            with contextlib.suppress(OSError):
                _remember(root, start, why)
            continue
        if process.returncode == GONE:
            _say("decommissioned", slot=start.slot)
            return GONE
        if read(root / TRIAL):
            continue  # it ended so that another one may begin
        pause = PAUSE_S[0] if time.monotonic() - began > STEADY_S else min(pause * 2, PAUSE_S[1])  # noqa: TID251
        ends += 1
        _count(ends)
        _say("ended", slot=start.slot, status=process.returncode, again_in_s=pause)
        _rest(pause, told)
    return 0


def _remember(root: Path, start: Due, why: str) -> None:
    """The last of its starts: back at once. Else the reason is kept for the day that all are used up."""
    trial = read(root / TRIAL)
    if trial.get("slot") != start.slot:
        return  # taken back meanwhile
    if trial.get("left", 0) <= 0:
        fall(root, trial, trial.get("why") or why)
    else:
        put(root / TRIAL, {**trial, "why": why})


def _count(ends: int) -> None:
    """For a system on trial, which may take it as its verdict: how often its agent has ended by itself."""
    if folder := os.environ.get("RUNTIME_DIRECTORY", ""):
        with contextlib.suppress(OSError):
            (Path(folder) / "ended").write_text(f"{ends}\n", encoding="utf-8")


def _rest(seconds: float, told: _Told) -> None:
    """Let a moment pass; a signal ends it."""
    until = time.monotonic() + seconds  # noqa: TID251
    while not told.stop and time.monotonic() < until:  # noqa: TID251
        time.sleep(EVERY_S)  # noqa: TID251 - nothing else runs in this process


def main(argv: list[str]) -> int:
    """The command line at the top."""
    root, factory, arguments = Path(argv[0]).absolute(), None, argv[1:]
    if arguments[:1] == ["--factory"]:
        factory, arguments = Path(arguments[1]), arguments[2:]
        try:
            settle(root, factory)
        except OSError as error:  # a full or failing disk
            _say("not_settled", error=str(error) or type(error).__name__)
    return run(root, arguments, factory)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
