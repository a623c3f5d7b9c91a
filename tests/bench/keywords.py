"""MLPerf Tiny keyword spotting, the int8 file as it is given, tensors in binary over HTTP.

`python -m tests.bench keywords` prints the rows. Reads $MSRT_DATA; needs wrk on PATH for the rate.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

import msrt
from tests.bench import load, peers
from tests.bench.serving import FLOOR, OURS, interleaved, ratio_row
from tests.bench.table import Row
from tests.bench.tree import Tree

DATA = Path(os.environ.get("MSRT_DATA", Path(__file__).parents[3] / "shared" / "data")) / "kws"
CLIENTS = 16
SHARE, ACCURACY = 0.28, 0.90
AT_ONCE = 100
WHAT = f"keyword spotting int8, HTTP binary, {CLIENTS} clients"


def rows() -> list[Row]:
    """The rate over the floor's with the same bodies, and the accuracy of what is served."""
    file = DATA / "kws01_dscnn_int8.onnx"
    if not file.exists():
        return [Row(WHAT, None, "", peer="skipped: MSRT_DATA has no kws")]
    x, labels = samples()
    with Tree() as tree:
        edge, device = tree.edge("edge", "north"), tree.device("device", "north")
        tree.cli("model", "push", str(file), "--name", "kws")
        tree.cli("model", "rollout", "kws", "--canary", "50%", "--window", "1")
        ours = load.binary(f"{edge.field('http')}/v2/models/kws/infer", "input_1", x[:1])
        given = load.answered(ours)
        table = [_accuracy(edge.field("http"), tree.path / "cloud", x, labels)]
        if not load.PRESENT:
            return [*table, Row(WHAT, None, "", peer=load.MISSING)]
        tree.procs[FLOOR], floor = peers.start(peers.floor(given, FLOOR), tree.path / "floor", ours)
        cells = interleaved({OURS: ours, FLOOR: floor}, CLIENTS, tree, (edge, device))
        bad = sum(run.bad for run in cells[OURS])
        table.append(ratio_row(f"{WHAT}, over {FLOOR}", cells[OURS], cells[FLOOR], FLOOR, SHARE))
        table.append(Row(f"{WHAT}: not answered with 200", bad, "", "<=", 0.0))
        return table


def samples() -> tuple[np.ndarray, np.ndarray]:
    """Features as the model takes them, and which word each is."""
    files = sorted((DATA / "eval").glob("*.bin"))
    x = np.stack([np.frombuffer(file.read_bytes(), np.int8).reshape(49, 10, 1) for file in files])
    return x, np.array([int(file.stem.rpartition("_")[2]) for file in files])


def _accuracy(url: str, state: Path, x: np.ndarray, labels: np.ndarray) -> Row:
    right = 0
    with msrt.connect([url], state=state) as client:
        for at in range(0, len(x), AT_ONCE):
            answers = client.infer_many("kws", [{"input_1": one[None]} for one in x[at : at + AT_ONCE]])
            said = [int(np.argmax(next(iter(answer.values())))) for answer in answers]
            right += int(np.sum(np.array(said) == labels[at : at + AT_ONCE]))
    what = f"keyword spotting int8, accuracy of {len(x)} answers over HTTP"
    return Row(what, right / len(x), "", ">=", ACCURACY)
