"""Large buffers made without holding the interpreter.

bytes(), b"".join() and .tobytes() of 40 MB keep every other thread of the process waiting, the event loop's among them,
for as long as the memory is copied and its pages are first touched: tens of milliseconds. numpy lets go meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

__all__ = ["Buffer", "joined"]

Buffer: TypeAlias = bytes | bytearray | memoryview


def joined(pieces: Iterable[Buffer]) -> memoryview:
    """One read-only buffer of all their bytes, a copy."""
    import numpy as np  # noqa: PLC0415 - who joins nothing large runs without it

    views = [memoryview(piece) for piece in pieces]
    whole = np.empty(sum(view.nbytes for view in views), np.uint8)
    at = 0
    for view in views:
        if view.nbytes:
            whole[at : at + view.nbytes] = np.frombuffer(view, np.uint8)
            at += view.nbytes
    whole.flags.writeable = False
    return whole.data
