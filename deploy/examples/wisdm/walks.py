"""The data of the example: ten-second windows of a phone's accelerometer, by user. Needs numpy alone."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ACTIVITIES = ("Walking", "Jogging", "Upstairs", "Downstairs", "Sitting", "Standing")
FEATURES = 43
FOLDS = 4
FILE = "wisdm/WISDM_ar_v1.1_transformed.arff"
SCALES = (
    *[(0.1, 0.06)] * 30,  # shares of a histogram of ten bins, for each axis
    *[(0.0, 5.0)] * 3,  # means, m/s2
    *[(1500.0, 1000.0)] * 3,  # times between peaks, ms
    *[(4.0, 2.5)] * 3,  # absolute deviations, m/s2
    *[(5.0, 3.0)] * 3,  # standard deviations, m/s2
    (11.0, 2.5),  # mean magnitude, m/s2
)
"""(middle, spread) of each feature. They follow from the units and from gravity: no node need see another's data."""


@cache
def walks(folder: str) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Features [n, 43] about 0, activities [n] and users [n], in the order of the file."""
    path = Path(folder or os.environ.get("MSRT_DATA", "")) / FILE
    if not path.exists():
        raise FileNotFoundError(
            f"no {path}: put WISDM v1.1 there; `data` names the folder (msrt device join --set data=DIR)"
        )
    lines = path.read_text().partition("@data")[2].split()
    rows = [line.rstrip(",").split(",") for line in lines]
    raw = np.array([[np.nan if text == "?" else float(text) for text in row[2:-1]] for row in rows])
    middle, spread = np.array(SCALES).T
    values = np.nan_to_num((raw - middle) / spread, nan=0.0)  # a window without peaks says nothing of their distance
    users = np.array([int(row[1]) for row in rows])
    return values.astype(np.float32), np.array([ACTIVITIES.index(row[-1]) for row in rows]), users


def strangers(users: NDArray[np.int64], fold: int, seed: int) -> NDArray[np.int64]:
    """The users that nobody trains on: every fourth of a random order, each user in one fold."""
    return np.sort(np.random.default_rng(seed).permutation(np.unique(users))[fold::FOLDS])
