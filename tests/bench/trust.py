"""Signed artifacts: what it takes a device to accept one, and the cloud to sign for one more.

A real repository and a real floor, in two state directories of this machine; between them nothing but a function call.
`python -m tests.bench trust` prints the rows.
"""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from msrt.artifacts import ArtifactStore
from msrt.trust.identity import Identity
from msrt.trust.tuf import Claim, Floor
from msrt.world.field import field_world
from msrt_cloud.signing import FolderRing, Periods, Repository
from tests.bench.table import Row

DAY = 86_400.0
AGAIN = 50

IMPORT = """
import resource, time
import msrt.artifacts, msrt.trust, msrt.hop, msrt.joining, numpy
def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20
before, began = held(), time.process_time()
import {name}
print(held() - before, time.process_time() - began)
"""


def rows() -> list[Row]:
    """At 10 and at 10,000 targets, and what importing the reader costs beside python-tuf's."""
    table = [*_imports()]
    for count in (10, 10_000):
        with tempfile.TemporaryDirectory() as folder:
            table += asyncio.run(_at(Path(folder), count))
    return table


def _imports() -> list[Row]:
    ours, theirs = _import("msrt.trust.tuf.floor"), _import("tuf.ngclient")
    peer = f"python-tuf's client {theirs[0]:.1f} MiB, {theirs[1] * 1000:.0f} ms"
    return [
        Row("trust: memory that the reader adds to a device", ours[0], "MiB", "<=", 2.0, peer),
        Row("trust: CPU to import it", ours[1] * 1000, "ms", peer=peer),
    ]


def _import(name: str) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT.format(name=name)], capture_output=True, text=True, check=True, timeout=60
    )
    memory, seconds = map(float, done.stdout.split())
    return memory, seconds


def _target(number: int) -> tuple[str, tuple[str, int]]:
    return f"models/default/net-{number}/1", (hashlib.sha256(b"%d" % number).hexdigest(), 20_000)


def _claim(number: int) -> Claim:
    path, (digest, size) = _target(number)
    return Claim(path, digest, size)


class _Counted:
    """The way from the cloud to the device, and the bytes on it."""

    def __init__(self, repository: Repository, store: ArtifactStore) -> None:
        self.repository, self.store, self.bytes = repository, store, 0

    async def ask(self, params: dict[str, object]) -> object:
        answer = self.repository.answer(params)
        assert isinstance(answer, dict)
        self.bytes += len(answer.get("timestamp", b"")) + sum(map(len, answer.get("roots", ())))
        return answer

    async def fetch(self, digest: str, offset: int, sink) -> object:
        data = bytes(await self.store.read(digest))
        self.bytes += len(data) - offset
        await sink.write(offset, data[offset:])
        await sink.complete()
        return None


async def _at(folder: Path, count: int) -> list[Row]:
    cloud = Identity.generate(bytes)
    above, below = field_world(folder / "cloud"), field_world(folder / "device")
    store = ArtifactStore(above)
    repository = Repository(above, cloud, store, FolderRing(folder / "keys"), Periods(14 * DAY, 365 * DAY, 730 * DAY))
    await repository.open(dict)
    began = time.process_time()
    await repository.publish(dict(map(_target, range(count))))
    all_s = time.process_time() - began
    way = _Counted(repository, store)
    floor = Floor(below, ArtifactStore(below, bound_bytes=64 << 20), cloud.public, ask=way.ask, fetch=way.fetch)

    async def timed(work) -> tuple[float, int]:
        cpu, before = time.process_time(), way.bytes
        await work
        return (time.process_time() - cpu) * 1000, way.bytes - before

    first = await timed(floor.vouch(_claim(0)))
    publish, newer = [], []
    for number in range(count, count + AGAIN):
        publish.append((await timed(repository.publish(dict([_target(number)]))))[0])
        newer.append(await timed(floor.vouch(_claim(number))))
    known = [(await timed(floor.vouch(_claim(count))))[0] for _ in range(AGAIN)]
    at = f"at {count:,} targets"
    return [
        Row(f"trust: a device's first artifact {at}: bytes", first[1] / 1024, "KiB", "<=", 64.0),
        Row("trust: the same: CPU of device and way", first[0], "ms", "<=", 100.0),
        Row(f"trust: one more artifact {at}: bytes", _median([b for _, b in newer]) / 1024, "KiB", "<=", 48.0),
        Row("trust: the same: CPU of device and way", _median([ms for ms, _ in newer]), "ms", "<=", 50.0),
        Row(f"trust: an artifact known before, {at}: CPU", _median(known), "ms", "<=", 1.0),
        Row(f"trust: the cloud signs for one more {at}: CPU", _median(publish), "ms", "<=", 100.0),
        Row("trust: the cloud signs for all of them at once: CPU", all_s * 1000, "ms"),
    ]


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
