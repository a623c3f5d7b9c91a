"""The data of the example: MNIST's four files, whose images are whose. Needs numpy alone."""

from __future__ import annotations

import gzip
import os
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CLASSES = 10
SHARDS = 2
"""Of one class each (but at the borders), for each node (McMahan 2017)."""
FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
         "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}  # fmt: skip


@cache
def mnist(folder: str, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images [n, 784] and labels [n] of the `train` (60,000) or `test` (10,000) part, from FOLDER/mnist/*.gz."""
    where = Path(folder or os.environ.get("MSRT_DATA", "")) / "mnist"
    images, labels = (_idx(where / f"{name}.gz") for name in FILES[part])
    return images.reshape(len(images), -1), labels.astype(np.int64)


def _idx(path: Path) -> NDArray[np.uint8]:
    """An idx file: two zeros, the type (8: bytes), the number of axes, each length as big-endian u32, the elements."""
    if not path.exists():
        how = "`data` names the folder (msrt device join --set data=DIR)"
        raise FileNotFoundError(f"no {path}: put MNIST's four files there; {how}")
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, ">u4", raw[3], 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def share(labels: NDArray[np.int64], index: int, count: int, split: str, seed: int) -> NDArray[np.int64]:
    """Which images are those of node `index` of `count`.

    `iid`: dealt out at random. `shards`: sorted by label and cut into two pieces a node, which are dealt out at random,
    so that most nodes see two digits only. Train and test part are cut alike: a node is judged on the digits it knows.
    """
    rng = np.random.default_rng(seed)
    if split == "iid":
        return np.sort(np.array_split(rng.permutation(len(labels)), count)[index])
    if split == "shards":
        pieces = np.array_split(np.argsort(labels, kind="stable"), SHARDS * count)
        mine = rng.permutation(SHARDS * count).reshape(count, SHARDS)[index]
        return np.sort(np.concatenate([pieces[at] for at in mine]))
    raise ValueError(f"[options] split is {split!r}; known are 'iid' and 'shards'")
