"""A job on real processes: masters die in the middle of a round, a stop, a task that raises, bundles that are none.

The job is the example's, with one door more: the first device waits in its Nth round while a file `hold-N` lies there,
so that a round stays half done for as long as a test needs.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from msrt import errors
from msrt.journal.facts import GLOBAL, JobAdvanced
from msrt.journal.log import Log
from msrt.learning.vector import load
from msrt.operator.session import ask
from msrt.training.local import load_task
from msrt.training.task import Node
from msrt.world.field import field_world
from tests.bench.tree import MSRT, Tree, until

DIGITS = Path(__file__).parents[2] / "deploy" / "examples" / "digits"
DEVICES = {"d1", "d2", "d3"}
ROUNDS = 6
HELD = """
import time
from pathlib import Path
from task import Digits

class Held(Digits):
    index, turn = 0, 0

    def data(self, node):
        self.index = node.index
        return super().data(node)

    def optimiser(self, model, settings):
        self.turn += 1
        while self.index == 0 and Path(self.options["doors"], f"hold-{self.turn}").exists():
            time.sleep(0.02)
        return super().optimiser(model, settings)
"""
RAISES = """
from task import Digits

class Raises(Digits):
    def data(self, node):
        raise ValueError("the camera is unplugged")
"""


@pytest.fixture(scope="module")
def house():
    """e1 north with d1 over ZeroMQ and d2 over MQTT, e2 south with d3."""
    with Tree() as tree:
        tree.edge("e1", "north")
        tree.edge("e2", "south")
        tree.device("d1", "north")
        tree.device("d2", "north", "--link", "mqtt")
        tree.device("d3", "south")
        until("the cloud sees all devices", lambda: living(tree) >= DEVICES)
        yield tree


@pytest.fixture
def doors(tmp_path):
    """Where `hold-N` lies or not; a test that fails leaves no device waiting."""
    yield tmp_path
    for door in tmp_path.glob("hold-*"):
        door.unlink()


def living(tree):
    return {row["name"] for row in json.loads(tree.cli("node", "list", "--json")) if row["alive"]}


def bundle(folder, name, source, doors="", rounds=ROUNDS):
    """The example with another task on top: no baseline, nothing published, every device in every round."""
    folder.mkdir()
    for file in ("task.py", "digits.py"):
        (folder / file).write_bytes((DIGITS / file).read_bytes())
    (folder / "held.py").write_text(source)
    kind = source.partition("class ")[2].partition("(")[0]
    (folder / "job.toml").write_text(
        f'name = "{name}"\ntask = "held:{kind}"\nrounds = {rounds}\ndeadline_s = 100.0\nquorum = 1.0\nmin_nodes = 3\n'
        f"checkpoints = {rounds}\n"
        f"[train]\nepochs = 4\nbatch = 16\nlr = 0.08\n[options]\ndoors = {json.dumps(str(doors))}\n"
    )
    return folder


def train(tree, folder, *more):
    """`msrt train run --watch`, as somebody who waits for it does."""
    return subprocess.Popen(
        [MSRT, "train", "run", str(folder), "--watch", *more, "--state", str(tree.path / "cloud")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def status(tree, job):
    """The job's row, or nothing while the cloud is away or does not know it."""
    try:
        return json.loads(tree.cli("train", "status", job, "--json"))[0]
    except RuntimeError:
        return {}


def half_done(tree, job, number):
    """Round `number` is open, and two of three have reported."""

    def two_of_three():
        row = status(tree, job)
        return row.get("round") == number - 1 and (row["reported"], row["expected"]) == (2, 3)

    return until(f"round {number} of {job} is half done", two_of_three, 60)


def children(pid):
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def runners(tree):
    """Jobs' processes of all nodes of this tree, started by them or forked by what has torch loaded."""
    found = []
    for proc in tree.procs.values():
        for child in children(proc.pid):
            try:
                argv = Path(f"/proc/{child}/cmdline").read_bytes()
            except OSError:
                continue
            if b"msrt.training.zygote" in argv:
                found += children(child)
            elif b"msrt.training.runner" in argv:
                found.append(child)
    return found


def again(tree, name, *argv):
    """SIGKILL it and start it as its service manager would."""
    tree.procs[name].signal(signal.SIGKILL)
    tree.procs[name].popen.wait()
    tree.start(name, *argv)


def checkpoints(tree, job):
    """What the stopped cloud's journal says of the job, and its disk."""
    disk = field_world(tree.path / "cloud").disk
    store = disk.store("journal")
    try:
        log, after, facts = Log(store, bytes, log_id="", epoch=1), 0, []
        while (block := log.next_block(GLOBAL, after)) is not None:
            facts += [fact for _, fact in block.entries() if isinstance(fact, JobAdvanced) and fact.job == job]
            after = block.last
    finally:
        store.close()
    return facts, disk.blobs()


def accuracy(weights):
    """Of these weights on the images that no device trained on, computed here with numpy alone."""
    layout, flat = load(weights)
    tensors = layout.unflatten(flat)
    _, (values, labels) = load_task("task:Digits", DIGITS, {}).data(Node("all"))
    for layer in ("0", "2", "4"):
        values = values @ tensors[f"{layer}.weight"].T + tensors[f"{layer}.bias"]
        values = np.maximum(values, 0) if layer != "4" else values
    return float((values.argmax(axis=1) == labels).mean())


@pytest.mark.slow
def test_a_job_outlives_its_cloud_and_an_edge(house, doors, tmp_path):
    """Each is SIGKILLed in the middle of a round: the watcher sees the job end with all rounds, everybody in each."""
    for number in (2, 4):
        (doors / f"hold-{number}").touch()
    report = tmp_path / "report.json"
    watching = train(house, bundle(tmp_path / "job", "outlives", HELD, doors), "--report", str(report))
    half_done(house, "outlives", 2)
    again(house, "cloud", "cloud", "start")
    half_done(house, "outlives", 2)
    (doors / "hold-2").unlink()
    half_done(house, "outlives", 4)
    again(house, "e1", "edge", "join")
    (doors / "hold-4").unlink()
    out, err = watching.communicate(timeout=60)
    assert watching.returncode == 0, out + err
    told = json.loads(report.read_text())
    assert [row["round"] for row in told["rounds"]] == list(range(1, ROUNDS + 1))
    house.procs["cloud"].stop()
    facts, blobs = checkpoints(house, "outlives")
    house.start("cloud", "cloud", "start")
    assert [fact.round for fact in facts] == list(range(1, ROUNDS + 1))
    assert [len(set(fact.included)) for fact in facts] == [len(DEVICES)] * ROUNDS
    weights = [blobs.read(fact.weights) for fact in facts]
    assert [hashlib.sha256(data).hexdigest() for data in weights] == [fact.weights for fact in facts]
    reached = [accuracy(data) for data in weights]
    assert reached[-1] > 0.85, reached
    assert reached[-1] > reached[0]


def test_a_stopped_job_is_over_everywhere(house, doors, tmp_path):
    """Its processes on every node are gone within seconds, whoever watches is told, and the checkpoint stays."""
    (doors / "hold-2").touch()
    watching = train(house, bundle(tmp_path / "job", "stops", HELD, doors))
    half_done(house, "stops", 2)
    assert len(runners(house)) == len(DEVICES) + 1
    house.cli("train", "stop", "stops")
    until("its processes are gone", lambda: not runners(house), 10)
    _, err = watching.communicate(timeout=20)
    assert watching.returncode == 1
    assert "stops stopped: by the operator" in err
    row = status(house, "stops")
    assert (row["state"], row["round"]) == ("stopped", 1)


@pytest.mark.slow
def test_a_task_that_raises_is_one_sentence(house, tmp_path):
    """The command names the job, a device and its fault; nothing of the tree died, nothing runs on."""
    watching = train(house, bundle(tmp_path / "job", "raises", RAISES))
    out, err = watching.communicate(timeout=100)
    assert watching.returncode == 1, out
    said = [line for line in err.splitlines() if not line.startswith("job raises: ")]  # its progress
    assert len(said) == 1, err
    assert said[0].startswith("msrt: raises failed")
    assert any(f"; {device} said: " in said[0] for device in DEVICES)
    assert "ValueError: the camera is unplugged" in said[0]
    assert "Traceback" not in err
    assert all(proc.popen.poll() is None for proc in house.procs.values())
    assert living(house) >= DEVICES
    until("its processes are gone", lambda: not runners(house), 10)


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def job(**more):
    table = {"name": "bad", "task": "task:Task", **more}
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"garbage", "not a zip"),
        (zipped(**{"job.toml": job()})[:60], "not a zip"),
        (zipped(**{"task.py": ""}), "no job.toml"),
        (zipped(**{"job.toml": "name = "}), "not TOML"),
        (zipped(**{"job.toml": job(runds=3)}), "did you mean 'rounds'"),
        (zipped(**{"job.toml": job(rounds=0)}), "rounds"),
        (zipped(**{"job.toml": job(), "../evil.py": ""}), "not a plain file"),
    ],
    ids=["garbage", "cut short", "no settings", "no TOML", "a typo", "no rounds", "a way out"],
)
def test_a_malformed_bundle_is_refused(house, data, why):
    """By the cloud too, which cannot know who packed it; no job comes of it."""

    async def send(cloud):
        digest = await cloud.upload_bytes(data)
        with pytest.raises(errors.InvalidJob) as caught:
            await cloud("train.run", bundle=digest)
        return str(caught.value), await cloud("train.status", job="")

    said, rows = ask(house.path / "cloud", send)
    assert why in said
    assert "bad" not in {row["job"] for row in rows}


def test_a_folder_that_is_no_job_is_refused_at_once(house, tmp_path):
    """The command says what is missing, in one sentence."""
    done = subprocess.run(
        [MSRT, "train", "run", str(tmp_path), "--state", str(house.path / "cloud")],
        capture_output=True, text=True, timeout=30, check=False, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "has no job.toml" in done.stderr
    assert len(done.stderr.splitlines()) == 1
