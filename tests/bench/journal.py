"""The journal on a real disk: fsynced appends by many callers, and a replica that catches up from nothing.

`python -m tests.bench.journal` prints the rows.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path

from msrt.journal import GLOBAL, Block, Log, Replica, Writer, facts
from msrt.trust.identity import Identity, Purpose, verify
from msrt.world.field import field_world

APPENDS = 10_000
CALLERS = 64
ENTRIES = 100_000
BATCH = 50


class Timed:
    """A function, and the seconds spent in it."""

    def __init__(self, work):
        self.work, self.seconds, self.calls = work, 0.0, 0

    def __call__(self, *args):
        began = time.perf_counter()
        try:
            return self.work(*args)
        finally:
            self.seconds += time.perf_counter() - began
            self.calls += 1


def rows() -> list[dict[str, object]]:
    """Both measurements, as rows {what, value, unit, bound, limit}; an empty bound is only shown."""
    cloud = Identity.generate(random.Random(1).randbytes)
    with tempfile.TemporaryDirectory() as folder:
        return [*asyncio.run(_appends(Path(folder) / "a", cloud)), *asyncio.run(_catch_up(Path(folder) / "b", cloud))]


def _log(world, cloud) -> Log:
    return Log(world.disk.store("journal"), cloud.signer(Purpose.JOURNAL), log_id="bench", epoch=1)


def _device(number: int) -> facts.NodeEnrolled:
    labels = {"site": f"hall-{number % 7}", "line": str(number % 31)}
    return facts.NodeEnrolled(f"{number:026d}", "device", f"cam-{number}", "", labels, bytes(32), bytes(32), number)


async def _appends(path: Path, cloud: Identity) -> list[dict[str, object]]:
    world = field_world(path)
    log = _log(world, cloud)
    commit = log._store.commit = Timed(log._store.commit)
    writer = Writer(log, world.offload)
    numbers = iter(range(APPENDS))

    async def caller() -> None:
        for number in numbers:
            await writer.append(_device(number))

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    rate = APPENDS / (time.perf_counter() - began)
    assert log.offset == APPENDS
    return [
        _row(f"journal: fsynced appends, {CALLERS} callers", rate, "1/s", ">=", 2000),
        _row("journal: entries per fsync", APPENDS / commit.calls, ""),
    ]


async def _catch_up(path: Path, cloud: Identity) -> list[dict[str, object]]:
    near, far = field_world(path / "cloud"), field_world(path / "edge")
    log = _log(near, cloud)
    for start in range(0, ENTRIES, BATCH):
        log.append(*[_device(number) for number in range(start, start + BATCH)])
    check = Timed(lambda data, signature: verify(cloud.public, data, signature, Purpose.JOURNAL))
    replica = Replica(far.disk.store("journal"), check, [GLOBAL])
    sign = log._sign = Timed(log._sign)
    began = time.perf_counter()
    pieces = 0
    async for piece in Writer(log, near.offload).tail(replica.follow()):
        pieces += 1
        assert isinstance(piece, Block)
        received = Block.received(piece.message(), memoryview(piece.payload))
        replica.take(await far.offload(replica.open, received))
        if replica.uncommitted > 1 << 20:
            await far.offload(replica.commit)
        if replica.positions[GLOBAL] == ENTRIES:
            break
    await far.offload(replica.commit)
    seconds = time.perf_counter() - began
    assert len(replica.state.nodes) == ENTRIES
    began = time.perf_counter()
    Replica(far.disk.store("journal"), check, [GLOBAL])
    restart = time.perf_counter() - began
    return [
        _row(
            f"journal: a replica catches up {ENTRIES} entries ({ENTRIES // BATCH} batches, {pieces} blocks)",
            seconds,
            "s",
            "<=",
            5,
        ),
        _row("journal: of it, checking signatures", 100 * check.seconds / seconds, "%"),
        _row("journal: of it, signing joined blocks", 100 * sign.seconds / seconds, "%"),
        _row(f"journal: a replica of {ENTRIES} entries starts again", restart, "s"),
    ]


def _row(what: str, value: float, unit: str, bound: str = "", limit: float = 0.0) -> dict[str, object]:
    return {"what": what, "value": value, "unit": unit, "bound": bound, "limit": limit}


if __name__ == "__main__":
    for row in rows():
        print(f"{row['what']:<80} {row['value']:>10.2f} {row['unit']:<4} {row['bound']} {row['limit'] or ''}")  # noqa: T201
