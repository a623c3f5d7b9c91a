"""A store over a simulated disk, and a parent that sends in pieces and can misbehave."""

from __future__ import annotations

import asyncio
import hashlib
import random
from types import SimpleNamespace

from msrt.artifacts import ArtifactStore
from msrt.errors import Disconnected
from msrt.world.memory import MemoryDisk

PIECE = 1000


async def inline(work, *args):
    return work(*args)


def world(disk=None):
    return SimpleNamespace(disk=disk or MemoryDisk(), offload=inline)


def store(disk=None, bound=None):
    return ArtifactStore(world(disk), bound_bytes=bound)


def blob(seed, size=5000):
    return random.Random(seed).randbytes(size)


def digest_of(data):
    return hashlib.sha256(data).hexdigest()


class Parent:
    """Sends artifacts; `fail_after` bytes it goes away once, `flip` damages one byte of the next answer."""

    def __init__(self, *blobs):
        self.blobs = {digest_of(data): data for data in blobs}
        self.asked: list[tuple[int, bool]] = []
        self.fail_after = 0
        self.flips = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, digest, offset, sink):
        self.asked.append((offset, sink.suspect))
        data = bytearray(self.blobs[digest])
        if self.flips:
            self.flips -= 1
            data[-1] ^= 1
        await self.gate.wait()
        sent = 0
        for at in range(offset, len(data), PIECE):
            if self.fail_after and sent >= self.fail_after:
                self.fail_after = 0
                raise Disconnected("the parent went away")
            await sink.write(at, memoryview(data)[at : at + PIECE])
            sent += PIECE
            await asyncio.sleep(0)
        await sink.complete(len(data), digest)
