"""Memory that models left behind: of 64 MiB that one had freed the C library kept 52 MiB, between what lives on."""

from __future__ import annotations

import ctypes

__all__ = ["give_back"]


def give_back() -> None:
    """Hand free pages of the heap to the system. Blocking: a millisecond, more where there is more. Only glibc keeps
    so much, and only there is anything done."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library
        return
    trim(0)
