"""Activities from a phone's accelerometer, judged on users whom nobody trained on: together, alone, pooled.

Four folds of nine held-out users, so that every one of 36 is a stranger once; 27 nodes of one user each.
`python -m tests.bench wisdm`. Reads $MSRT_DATA.
"""

from __future__ import annotations

from statistics import fmean

from tests.bench.simulated import DATA, Case, run
from tests.bench.table import Row

FOLDS, NODES = 4, 27


def rows() -> list[Row]:
    """Federated against the mean user alone, and against all data in one place."""
    if not (DATA / "wisdm").is_dir():
        return [Row("WISDM by user", None, "", peer="skipped: MSRT_DATA has no wisdm")]
    cases = [Case("wisdm", NODES, 0, options={"fold": fold}, judged=1, baseline=True) for fold in range(FOLDS)]
    found = run(cases)
    reached, alone, pooled = (
        100 * fmean(values)
        for values in (
            [one.accuracy for one in found],
            [one.alone or 0.0 for one in found],
            [one.pooled or 0.0 for one in found],
        )
    )
    said = f"federated {reached:.1f} %, alone {alone:.1f} %, pooled {pooled:.1f} %"
    return [
        Row("WISDM, strangers: above the mean user alone", reached - alone, "points", ">=", 12, said),
        Row("WISDM, strangers: below pooled data", pooled - reached, "points", "<=", 3, said),
    ]
