"""What it costs the cloud to choose a round's participants among many devices. Simulated: records of devices, as edges
report them, in the cloud's own objects; no process, no connection. `python -m tests.bench draws` prints it.

`a draw` is what a round costs: who is here, who of them matches, 100 of them by lot, with their places. Beside it the
same by going through everybody, as it was before there was an index, and what a report of 100 devices adds.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from statistics import median
from types import SimpleNamespace
from typing import Any, Final

import msgspec

from msrt.learning.selection import Wanted, select
from msrt.protocol.address import Selector
from msrt.protocol.messages import DeviceRecord, FleetReport
from msrt_cloud.fleet import Fleet
from tests.bench.table import Row

SIZES: Final = (1_000, 10_000, 100_000)
EDGES: Final = 10
TIMES: Final = 9
ASKED: Final = Wanted(count=100)
SELECT: Final = "site=a"


def _fleet(size: int) -> Fleet:
    """Devices spread over ten edges; half of them match."""
    fleet = Fleet()
    records: list[list[DeviceRecord]] = [[] for _ in range(EDGES)]
    for number in range(size):
        node = hashlib.sha256(f"device {number}".encode()).hexdigest()[:40]
        labels = {"site": "ab"[number % 2]}
        records[number % EDGES].append(DeviceRecord(node, f"d{number:06}", True, "x86_64", labels, ()))
    for number, devices in enumerate(records):
        certificate = SimpleNamespace(name=f"e{number}", region=f"r{number}")
        peer: Any = SimpleNamespace(node=f"e{number}", certificate=certificate, address=None)
        fleet.joined(peer, 0.0)
        fleet.report(peer.node, FleetReport({}, tuple(devices)))
    return fleet


def _drawn(fleet: Fleet, number: int) -> dict[str, int]:
    return fleet.crowd(SELECT).pool().draw({}, ASKED, "job", number)


def _looked(fleet: Fleet, number: int) -> dict[str, int]:
    """Everybody, then those that match, by name, and a lot for each."""
    wanted = Selector.parse(SELECT)
    devices = sorted((d for _, d in fleet.living() if wanted.matches(d.labels)), key=lambda d: d.name)
    nodes = [device.node for device in devices]
    places = {node: place for place, node in enumerate(nodes)}
    return {node: places[node] for node in select(nodes, {}, ASKED, "job", number)}


def _ms(run: Callable[[int], object]) -> float:
    """Median milliseconds of processor."""
    took = []
    for number in range(1, TIMES + 1):
        began = time.process_time()
        run(number)
        took.append(1000 * (time.process_time() - began))
    return median(took)


def rows() -> list[Row]:
    """A draw at each size, and after a report."""
    out = []
    for size in SIZES:
        fleet = _fleet(size)
        assert _drawn(fleet, 1) == _looked(fleet, 1)  # the first one makes the index
        whole = _ms(lambda number, fleet=fleet: _looked(fleet, number))  # type: ignore[misc]
        some = list(fleet.edges["e0"].devices.values())[:100]

        def changed(number: int, fleet: Fleet = fleet, some: list[DeviceRecord] = some) -> None:
            flipped = tuple(msgspec.structs.replace(one, alive=bool(number % 2)) for one in some)
            fleet.report("e0", FleetReport({}, flipped, last=False))
            _drawn(fleet, number)

        draw = _ms(lambda number, fleet=fleet: _drawn(fleet, number))  # type: ignore[misc]
        what = f"simulated, {size:,} devices: a draw of {ASKED.count}"
        after = _ms(changed)
        beside = f"going through everybody {whole:.3g} ms; after a report by which 100 came or went {after:.3g} ms"
        out.append(Row(what, draw, "ms", "<=", 10.0, beside))
    return out
