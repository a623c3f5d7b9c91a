"""What the C library keeps of memory that was freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource
from msrt import heap
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def messages():
    before = faults()
    for _ in range(50):
        held = [libc.malloc(1 << 20) for _ in range(4)]
        for room in held:
            ctypes.memset(room, 1, 1 << 20)
        for room in held:
            libc.free(room)
    return faults() - before
libc.mallopt(-3, 128 << 10)
without = messages()
heap.keep()
messages()
print(without, messages())
heap.give_back()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_the_memory_of_a_message_is_the_next_ones():
    """Two hundred messages of a MiB each: without it every page of each is fresh, with it none is."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    without, kept = map(int, done.stdout.split())
    assert without > 40_000
    assert kept < 1000
