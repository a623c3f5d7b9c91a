"""The data of the example: the help texts of Python itself, `pydoc_data.topics`, as windows of characters."""

from __future__ import annotations

from functools import cache
from pydoc_data import topics

import numpy as np
from numpy.typing import NDArray

WINDOW = 64
TRAINED = 0.9
"""Of each text; the rest of it judges."""
LETTERS = "\n" + "".join(map(chr, range(32, 127)))
"""The vocabulary; whatever else occurs is the last of them."""
Windows = NDArray[np.int64]


@cache
def texts(most: int) -> list[NDArray[np.int64]]:
    """The `most` longest texts (0: all) as numbers of letters, the longest first."""
    known = {letter: at for at, letter in enumerate(LETTERS)}
    found = sorted(topics.topics.values(), key=len, reverse=True)
    return [np.array([known.get(letter, len(known) - 1) for letter in text]) for text in found[: most or None]]


def windows(index: int, count: int, most: int) -> tuple[Windows, Windows]:
    """(train [n, 65], test [m, 65]) of a node: whole texts are dealt out by length in turn, none to two nodes."""
    parts: tuple[list[Windows], list[Windows]] = ([], [])
    for text in texts(most)[index::count]:
        cut = int(TRAINED * len(text))
        for part, found in zip((text[:cut], text[cut:]), parts, strict=True):
            for start in range(0, len(part) - WINDOW, WINDOW):
                found.append(part[start : start + WINDOW + 1])
    train, test = (np.array(part, np.int64).reshape(-1, WINDOW + 1) for part in parts)
    return train, test
