"""Whether a version that could not be loaded is tried again, and when. Pure.

A peer that is away and a disk that is full or lost bytes heal without anybody touching the version: it is tried for as
long as it is assigned. Memory may be short for a moment, or the model too large for this machine for ever, and nothing
says which: it is tried a bounded number of times, over about a quarter of an hour. A bad file stays bad: it is not
tried again. Every pause doubles up to a bound and is jittered: devices that failed together do not come back together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msrt.errors import BadSignature, InvalidModel, InvalidTensor, MalformedFrame, ModelFailed, MsrtError, OutOfMemory

__all__ = ["LASTING", "SHORTAGES", "pause_s"]

LASTING: Final = (InvalidModel, InvalidTensor, ModelFailed, BadSignature, MalformedFrame)
"""Another try never helps against these, out of memory apart."""
SHORTAGES: Final = 12
"""Loads that may run out of memory before a version counts as too large for this machine."""
_FIRST_S: Final = 1.0
_LAST_S: Final = 30.0
_SHORTAGE_LAST_S: Final = 300.0
"""Each try of a load presses on memory that others use: it comes more rarely than a question to a peer."""


def pause_s(error: MsrtError, tries: int, shortages: int, random: Callable[[], float]) -> float | None:
    """Seconds until the next try, from half of the full pause to all of it; None: there is none.

    tries: failures before this one. shortages: those among them that were out of memory.
    """
    if isinstance(error, OutOfMemory):
        if shortages + 1 >= SHORTAGES:
            return None
        full = min(_SHORTAGE_LAST_S, _FIRST_S * 2.0**shortages)
    elif isinstance(error, LASTING):
        return None
    else:
        full = min(_LAST_S, _FIRST_S * 2.0 ** min(tries, 16))
    return full * (1 + random()) / 2
