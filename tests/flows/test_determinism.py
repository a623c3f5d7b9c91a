"""The same seed gives the same run: what fails once can be looked at for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from msrt.world.simulation import seeds
from tests.flows.storm import storm

ROOT = Path(__file__).resolve().parents[2]
STORM = """
import hashlib
from tests.flows.storm import storm
print([hashlib.sha256(storm(seed)).hexdigest() for seed in (3, 8)])
"""


@pytest.mark.parametrize("count", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_storms_twice_are_the_same_byte_for_byte(count):
    """Whole trees of production nodes replay exactly, and different seeds differ."""
    logs = [storm(seed) for seed in seeds(count)]
    assert logs == [storm(seed) for seed in seeds(count)]
    assert len(set(logs)) == len(logs)


@pytest.mark.slow
def test_a_storm_does_not_depend_on_how_strings_are_hashed():
    """Sets are walked in an order of their own in each process: none may decide anything."""
    told = {
        subprocess.run(
            [sys.executable, "-c", STORM], env={**os.environ, "PYTHONHASHSEED": number}, cwd=ROOT, timeout=100,
            capture_output=True, text=True, check=True,
        ).stdout
        for number in "12"
    }  # fmt: skip
    assert len(told) == 1
