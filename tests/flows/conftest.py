"""How many seeds a story is told with."""

from __future__ import annotations

import pytest

from msrt.world.simulation import seeds

QUICK, SLOW = 2, 21


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A story asks for `seed`: two in `make test`, twenty-one others in `make test-slow`, or the one of MSRT_SEED."""
    if "seed" in metafunc.fixturenames and metafunc.module.__name__.rpartition(".")[2].startswith("test_stories"):
        chosen = seeds(QUICK + SLOW, first=1)
        slow = pytest.mark.slow
        metafunc.parametrize(
            "seed", [pytest.param(seed, marks=slow if at >= QUICK else ()) for at, seed in enumerate(chosen)]
        )
