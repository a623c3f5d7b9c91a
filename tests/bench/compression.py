"""What codecs save and cost on MNIST: the 2NN, ten nodes of 600 images, all of them in each of 100 rounds.

Each codec against float32 with the same seed: accuracy on the whole test set, mean of the last five rounds. The codec
is on the way from the nodes, int8 on both ways up. `python -m tests.bench compression`. Reads $MSRT_DATA.
"""

from __future__ import annotations

from statistics import fmean

from msrt.training.settings import Compression
from tests.bench.simulated import DATA, Case, Found, run
from tests.bench.table import Row

SEEDS = (0, 1, 2)
ROUNDS, NODES, IMAGES, LAST = 100, 10, 6000, 5
CODECS = (("topk:0.01", 40), ("powersgd:2", 20), ("sign", 25))
"""With error feedback, and how many times fewer bytes they shall send."""


def _case(codec: str, seed: int) -> Case:
    links = Compression(device=codec, region="int8" if codec == "int8" else "fp32")
    settings = {"rounds": ROUNDS, "compression": links}
    return Case("mnist", NODES, seed, settings, {"images": IMAGES}, {"lr": 0.1}, judged=LAST)


def _points(found: list[Found], plain: list[Found]) -> float:
    return 100 * fmean(one.accuracy - other.accuracy for one, other in zip(found, plain, strict=True))


def rows() -> list[Row]:
    """int8, then the biased ones."""
    if not (DATA / "mnist").is_dir():
        return [Row("codecs on MNIST 2NN", None, "", peer="skipped: MSRT_DATA has no mnist")]
    names = ["fp32", "int8", *(name for name, _ in CODECS)]
    cases = [_case(name, seed) for name in names for seed in SEEDS]
    done = run(cases)
    by = {name: done[at * len(SEEDS) : (at + 1) * len(SEEDS)] for at, name in enumerate(names)}
    plain, int8 = by["fp32"], by["int8"]
    base = f"float32 {fmean(one.accuracy for one in plain):.4f}"
    share = 100 * sum(one.bytes_up for one in int8) / sum(one.bytes_up for one in plain)
    off = abs(_points(int8, plain))
    found = [
        Row("int8 updates of MNIST 2NN", share, "% of the bytes", "<=", 25.5),
        Row("int8 against float32, paired", off, "points", "<=", 0.3, base),
    ]
    for name, times in CODECS:
        fewer = sum(one.bytes_up for one in plain) / sum(one.bytes_up for one in by[name])
        found.append(Row(f"{name} with error feedback", fewer, "x fewer bytes", ">=", times))
        found.append(Row(f"{name} below float32, paired", -_points(by[name], plain), "points", "<=", 1.0, base))
    return found
