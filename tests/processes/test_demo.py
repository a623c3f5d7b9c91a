"""The demo itself."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.bench.tree import MSRT, until

KEYS = {
    "training": {"rounds", "accuracy", "alone_mean", "pooled", "update_bytes_ratio"},
    "model": {"accuracy_fp32", "accuracy_int8", "weight_bytes_ratio", "chosen"},
    "serving": {"requests", "failed", "wrong", "p50_ms", "p99_ms", "accuracy"},
    "events": {"sent", "received"},
}


def of(folder):
    """Processes whose command line names the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in line:
                found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_demo_holds(tmp_path):
    """Exit status 0, a report with exactly its keys, three kills, nothing failed, wrong or lost; nobody stays."""
    file, state = tmp_path / "report.json", tmp_path / "tree"
    done = subprocess.run(
        [MSRT, "demo", "--report", str(file), "--state", str(state)],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    report = json.loads(file.read_text())
    assert report.keys() == KEYS.keys() | {"ok", "seconds", "failover"}
    assert all(report[part].keys() == keys for part, keys in KEYS.items())
    assert report["ok"] is True
    assert [row["killed"] for row in report["failover"]] == ["device", "edge", "cloud"]
    assert not of(state)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_demo_that_is_kept_can_be_played_with(tmp_path):
    """The tree stays, each command that is printed works when pasted into a shell, the last one ends everybody."""
    state = tmp_path / "a tree"
    done = subprocess.run(
        [MSRT, "demo", "--keep", "--state", str(state)], capture_output=True, text=True, timeout=240, check=False
    )
    try:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        *commands, end = [
            line.strip() for line in done.stdout.partition("Play with it")[2].splitlines() if "  " in line
        ]
        assert {"status", "infer", "curl", "events", "train"} <= {word for line in commands for word in line.split()}
        for line in commands:
            endless = " --count 300" if " events follow " in line else ""
            said = subprocess.run(
                line.replace("curl ", "curl --fail ") + endless,
                shell=True, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
            )  # fmt: skip
            assert said.returncode == 0, line + said.stderr
            assert said.stdout, line
        assert end.startswith("kill ")
        subprocess.run(end, shell=True, check=True)
        until("all are gone", lambda: not of(state), 10)
    finally:
        for pid in of(state):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("chapter", "keep"), [("training", ("--keep",)), ("rollout", ()), ("kill -9 the edge", ("--keep",))]
)
def test_ctrl_c_leaves_nobody_behind_in_any_chapter(tmp_path, chapter, keep):
    """While trainers run, while a node is dead or being born, and also of a tree that was to be kept."""
    state = tmp_path / "tree"
    demo = subprocess.Popen(
        [MSRT, "demo", *keep, "--state", str(state)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        said = []
        assert any(said.append(line) or chapter in line for line in demo.stdout), "".join(said[-30:])
        time.sleep(random.Random(chapter).uniform(0.5, 4))  # somewhere in the chapter
        os.killpg(demo.pid, signal.SIGINT)  # as a terminal does
        assert demo.wait(30) == 130
        until("all are gone", lambda: not of(state), 10)
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()
        demo.stdout.close()
        for pid in of(state):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_stopped_leaves_nobody_behind(tmp_path, number):
    """Ctrl-C, SIGTERM, and even SIGKILL: all of its processes end with it."""
    state = tmp_path / "tree"
    demo = subprocess.Popen(
        [MSRT, "demo", "--state", str(state)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        until("the edges start", lambda: len(of(state)) >= 4, 40)
        demo.send_signal(number)
        demo.wait(30)
        until("all are gone", lambda: not of(state), 10)
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()
    assert demo.returncode != 0
