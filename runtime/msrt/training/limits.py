"""What a job's process may take, and with whom it ends. Called before a line of the user's code is loaded."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from typing import Final

from msrt.training.settings import Limits

__all__ = ["allow_cpu", "die_with", "limit"]

PR_SET_PDEATHSIG: Final = 1
FILES: Final = 256


def die_with(parent: int) -> None:
    """Be killed when the parent dies; checked after asking for it: it may be gone already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def limit(limits: Limits) -> None:
    """Bound memory (RLIMIT_DATA: torch maps far more address space than it uses), files and core dumps for good."""
    memory, size = limits.memory_mb << 20, limits.file_mb << 20
    for what, value in (
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_FSIZE, size),
        (resource.RLIMIT_NOFILE, FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (bound, bound))


def allow_cpu(seconds: int) -> None:
    """So many more CPU seconds from now; past them the kernel sends SIGXCPU."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(usage.ru_utime + usage.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
