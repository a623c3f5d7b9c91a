"""The World of a real machine: its clock, its randomness, its disk, one small pool of threads, real links."""

from __future__ import annotations

import asyncio
import os
import random  # noqa: TID251 - the field's source is the operating system's
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from msrt.errors import InvalidAddress
from msrt.links.link import Credentials, Link
from msrt.world.files import FieldDisk
from msrt.world.world import World

__all__ = ["OFFLOAD_THREADS", "FieldLinks", "field_world"]

OFFLOAD_THREADS: Final = 4
"""Threads for blocking work. Few, for they share the GIL with the event loop; enough that an fsync or two waiting
for the disk leave room for a hash or a sum."""

OFFLOAD_NICE: Final = 10
"""Of a master's: its sums and digests hold no GIL, and the loop goes before them."""

_TRANSPORTS: Final = {
    "tcp": "msrt.links.zmq",
    "ipc": "msrt.links.zmq",
    "mqtt": "msrt.links.mqtt",
    "mqtts": "msrt.links.mqtt",
}


class FieldLinks:
    """Finds the transport by the scheme of the URL and imports it then: a device on one link pays for one.

    A transport is a module with `listen(url, credentials, allow)` and `dial(url, credentials)`.
    """

    def listen(self, url: str, credentials: Credentials, allow: Callable[[bytes], bool]) -> Link:
        link: Link = _transport(url).listen(url, credentials, allow)
        return link

    def dial(self, url: str, credentials: Credentials) -> Link:
        link: Link = _transport(url).dial(url, credentials)
        return link


def field_world(path: Path, *, max_store_bytes: int = 0, offload_nice: int = OFFLOAD_NICE) -> World:
    """A World over the state directory `path` (made if missing). Threads start with the first `offload`.

    `offload_nice`: how much they stand back. 0 where their work is what the node is there for, or holds the GIL: a nice
    thread that other processes keep from the processor keeps it from the event loop meanwhile.
    """
    return World(
        now=time.monotonic,  # noqa: TID251 - here World.now is made
        wall=time.time,  # noqa: TID251 - and World.wall
        random=random.SystemRandom(),
        disk=FieldDisk(path, max_store_bytes=max_store_bytes),
        offload=_pool(offload_nice),
        links=FieldLinks(),
    )


def _pool(nice: int) -> Callable[..., Awaitable[Any]]:
    pool = ThreadPoolExecutor(
        OFFLOAD_THREADS, thread_name_prefix="msrt-offload", initializer=_yield_to_the_loop, initargs=(nice,)
    )

    async def offload(work: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, work, *args)

    return offload


def _yield_to_the_loop(nice: int) -> None:
    """Let the event loop go first where both want the processor: Linux knows niceness per thread."""
    if sys.platform == "linux" and nice > os.getpriority(os.PRIO_PROCESS, 0):  # less takes privileges
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def _transport(url: str) -> Any:
    scheme = url.partition("://")[0]
    if scheme not in _TRANSPORTS:
        known = ", ".join(f"{name}://" for name in _TRANSPORTS)
        raise InvalidAddress(f"no link speaks {url!r}", hint=f"links here are {known}")
    return import_module(_TRANSPORTS[scheme])
