"""The World of a real machine."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading

import pytest

from msrt.errors import InvalidAddress
from msrt.links.link import Credentials
from msrt.world.field import OFFLOAD_NICE, OFFLOAD_THREADS, field_world


def test_offload_leaves_the_loop_free(tmp_path):
    """Blocking work runs in a few threads, its result and its error come back."""
    world = field_world(tmp_path)

    async def main():
        barrier = threading.Barrier(OFFLOAD_THREADS)
        names = await asyncio.gather(
            *(world.offload(lambda: (barrier.wait(10), threading.current_thread().name)[1]) for _ in range(4))
        )
        assert len(set(names)) == OFFLOAD_THREADS
        assert threading.current_thread().name not in names
        with pytest.raises(ZeroDivisionError):
            await world.offload(lambda: 1 // 0)

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows niceness per thread")
def test_threads_stand_back_as_they_are_told(tmp_path):
    """A master's behind its loop; a device's not at all, for they run its models and hold the GIL as they load them."""
    ours = os.getpriority(os.PRIO_PROCESS, 0)

    def theirs(world):
        return asyncio.run(world.offload(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))

    assert theirs(field_world(tmp_path / "master")) == max(ours, OFFLOAD_NICE)
    assert theirs(field_world(tmp_path / "device", offload_nice=0)) == ours


def test_randomness_is_the_systems(tmp_path):
    """Keys and ids in the field come from the operating system."""
    world = field_world(tmp_path)
    assert isinstance(world.random, random.SystemRandom)
    assert len(world.random.randbytes(32)) == 32


def test_time_goes_on(tmp_path):
    """`now` never goes back and `wall` is today's."""
    world = field_world(tmp_path)
    assert world.now() <= world.now()
    assert world.wall() > 1.7e9


def test_an_unknown_scheme_names_the_known_ones(tmp_path):
    """A URL no link speaks is refused with the list of those that are."""
    with pytest.raises(InvalidAddress, match="tcp://"):
        field_world(tmp_path).links.dial("http://here", Credentials())
