"""Random fault schedules over whole trees. A failing seed is replayed by
`MSRT_SEED=n pytest tests/flows/test_schedules.py`."""

from __future__ import annotations

import pytest

from msrt.world.simulation import seeds
from tests.flows.storm import storm

QUICK, SLOW = 60, 140
SEEDS = [
    pytest.param(seed, marks=pytest.mark.slow if at >= QUICK else ()) for at, seed in enumerate(seeds(QUICK + SLOW))
]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tree_weathers_any_storm(seed):
    """Loss, delay, duplication, reordering, partitions, crashes, restarts, full disks: the invariants hold after."""
    storm(seed)
