"""Rounds that the 2NN of McMahan 2017 takes to 97 % on MNIST: 100 clients, a tenth of them a round, E = 1, B = 10.

The learning rate is one of the paper's grid for each split, as there. Float32 both ways, three seeds, the median.
`python -m tests.bench mcmahan`. Reads $MSRT_DATA; about five minutes on two quiet cores.
"""

from __future__ import annotations

from statistics import median

from tests.bench.simulated import DATA, Case, run
from tests.bench.table import Row

SEEDS = (0, 1, 2)
SPLITS = (("iid", 0.215, 1, 87), ("shards", 0.1, 4, 664))
"""Split, learning rate, rounds between two looks at the test set, and what the paper took."""
GOAL = 0.97


def rows() -> list[Row]:
    """IID, then two digits a client."""
    if not (DATA / "mnist").is_dir():
        return [Row("MNIST 2NN, McMahan 2017", None, "", peer="skipped: MSRT_DATA has no mnist")]
    cases = [
        Case("mnist", 100, seed, {"rounds": most, "compression": "fp32"}, {"split": split}, {"lr": lr}, every=every,
             goal=GOAL)
        for split, lr, every, most in reversed(SPLITS)
        for seed in SEEDS
    ]  # fmt: skip
    found = dict(zip(((case.options["split"], case.seed) for case in cases), run(cases), strict=True))
    rows = []
    for split, lr, _, most in SPLITS:
        reached = [found[split, seed].reached or most + 1 for seed in SEEDS]
        said = f"seeds {', '.join(map(str, reached))}; learning rate {lr:g}; McMahan 2017: {most}"
        rows.append(Row(f"MNIST 2NN to {GOAL:.0%}, {split}", median(reached), "rounds", "<=", most, said))
    return rows
