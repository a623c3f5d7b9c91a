"""FedProx against FedAvg where nine of ten nodes are stragglers: Synthetic(1, 1) of the FedProx paper (Li 2020).

As there: 30 devices, ten a round, 20 epochs of batch 10 at 0.01, 200 rounds. FedProx (mu = 1) takes what stragglers
have done, FedAvg drops them. Seeds 0 to 4, mean accuracy over all test data in the last 20 rounds.
`python -m tests.bench stragglers`; about six minutes on two quiet cores.
"""

from __future__ import annotations

from statistics import fmean

from tests.bench.simulated import Case, run
from tests.bench.table import Row

SEEDS = (0, 1, 2, 3, 4)
NODES, STRAGGLERS, LAST = 30, 0.9, 20


def rows() -> list[Row]:
    """The difference, and in how many seeds it is in favour."""
    kinds = (({"proximal": 1.0}, {"partial": True}), ({"proximal": 0.0}, {"partial": False}))
    cases = [
        Case("synthetic", NODES, seed, train=train, pace=pace, stragglers=STRAGGLERS, judged=LAST)
        for train, pace in kinds
        for seed in SEEDS
    ]
    done = run(cases)
    prox, avg = done[: len(SEEDS)], done[len(SEEDS) :]
    gained = [one.accuracy - other.accuracy for one, other in zip(prox, avg, strict=True)]
    said = ", ".join(f"{one.accuracy:.3f}/{other.accuracy:.3f}" for one, other in zip(prox, avg, strict=True))
    return [
        Row("FedProx above FedAvg, 90 % stragglers, Synthetic(1, 1)", fmean(gained), "", ">=", 0.15, said),
        Row("seeds in favour of FedProx", sum(gain > 0 for gain in gained), f"of {len(SEEDS)}", ">=", len(SEEDS)),
    ]
