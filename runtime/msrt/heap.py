"""The C library's heap, told how a process of ours lives. Only glibc listens; elsewhere nothing is done."""

from __future__ import annotations

import ctypes
from typing import Any, Final

__all__ = ["give_back", "keep"]

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Their numbers in malloc.h."""
MAPPED_FROM: Final = 4 << 20
"""Bytes: a chunk of a stream is at most a quarter of it."""
KEPT: Final = 16 << 20
"""Free bytes at the end of a heap that are not given back at once."""


def keep() -> None:
    """Have the memory of a message used for the next one. Left to itself glibc maps what takes 128 KiB and more anew
    each time, and the kernel zeroes pages for every chunk that comes or goes.
    """
    set_option = _function("mallopt")
    if set_option is not None:
        set_option(MMAP_THRESHOLD, MAPPED_FROM)
        set_option(TRIM_THRESHOLD, KEPT)


def give_back() -> None:
    """Hand free pages of the heap to the system: of 64 MiB that a model had freed the C library kept 52 MiB, between
    what lives on. Blocking: a millisecond, more where there is more.
    """
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):  # another C library
        return None
