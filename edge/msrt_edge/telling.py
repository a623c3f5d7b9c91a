"""What the cloud hears of an edge's devices: changes soon, and all of it in turn, in parts of a bounded size.

A *sweep* names every device once, a part each time; the cloud drops whoever a whole sweep did not name. Between its
parts go devices of which something changed that placement or rollouts act on; mere numbers ride with the sweep. So an
edge sends a part a period however many devices it has. Decides only: the shell sends, then calls `sent`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from msrt.protocol.messages import DeviceRecord, FleetReport

__all__ = ["PART_BYTES", "Part", "Telling", "report"]

PART_BYTES: Final = 64 << 10
"""Bytes of records in one report; a record that is larger travels alone."""
LOOKED_AT: Final = 512
"""Devices looked at for one report: making a record takes some microseconds, and all of them would hold the loop."""
RECORD_BYTES: Final = 448 << 10
"""A record above this fits no header: its models, sources and labels are left out."""


@dataclass(frozen=True)
class Part:
    """One report to be, and what it settles once it is sent."""

    devices: tuple[DeviceRecord, ...]
    sweep: int
    part: int
    last: bool
    named: tuple[str, ...]


@dataclass
class Telling:
    """Whom to name in the next report. `record` makes a device's record, None for one that is forgotten."""

    record: Callable[[str], DeviceRecord | None]
    changed: dict[str, None] = field(default_factory=dict)
    """Devices of which the cloud should hear soon, the longest waiting first."""
    whole: bool = False
    """A sweep has come to its end since `restart`."""
    _told: dict[str, DeviceRecord] = field(default_factory=dict)
    _left: list[str] = field(default_factory=list)
    _sweep: int = 0
    _part: int = 0

    def restart(self) -> None:
        """The cloud is here (again), and knows nothing."""
        self.whole = False
        self.changed.clear()
        self._told.clear()
        self._left.clear()
        self._part = 0

    def of_sweep(self, everyone: Iterable[str]) -> Part:
        """The next part of the sweep over `everyone`, or the first of a new one."""
        if not self._part:
            self._left = list(everyone)[::-1]
            self._told = {node: self._told[node] for node in self._left if node in self._told}
        devices, named = self._fill(reversed(self._left))
        number = self._sweep + (self._part == 0)
        return Part(devices, number, self._part, last=len(named) == len(self._left), named=named)

    def of_changes(self) -> Part | None:
        """Those of which something changed that matters at once."""
        devices, named = self._fill(self.changed, fresh=True)
        if devices:
            return Part(devices, 0, 0, last=False, named=named)
        for node in named:
            del self.changed[node]
        return None

    def sent(self, part: Part) -> None:
        """It is with the session: it will arrive, or the session ends."""
        self._told.update((device.node, _essence(device)) for device in part.devices)
        for node in part.named:
            self.changed.pop(node, None)
        if not part.sweep:
            return
        del self._left[len(self._left) - len(part.named) :]
        self._sweep, self._part = part.sweep, 0 if part.last else part.part + 1
        if part.last:
            self.whole = True

    def _fill(self, nodes: Iterable[str], *, fresh: bool = False) -> tuple[tuple[DeviceRecord, ...], tuple[str, ...]]:
        """Records up to the size of a part, and the nodes that are settled with it."""
        devices, named, size = list[DeviceRecord](), list[str](), 0
        for node in itertools.islice(nodes, LOOKED_AT):
            record = self.record(node)
            if record is None or (fresh and self._told.get(node) == _essence(record)):
                named.append(node)
                continue
            length = len(msgspec.msgpack.encode(record))
            if length > RECORD_BYTES:
                record = msgspec.structs.replace(record, models=(), sources={}, labels={}, values={})
            if devices and size + length > PART_BYTES:
                break
            devices.append(record)
            named.append(node)
            size += length
        return tuple(devices), tuple(named)


def report(part: Part, positions: dict[str, int], values: dict[str, float]) -> FleetReport:
    """The message that carries it."""
    return FleetReport(positions, part.devices, values, part.sweep, part.part, part.last)


def _essence(record: DeviceRecord) -> DeviceRecord:
    """What is told soon when it changes: all but numbers that always change. A failure counts, an answer does not."""
    models = tuple(msgspec.structs.replace(model, latency_us={}, requests=0) for model in record.models)
    return msgspec.structs.replace(record, models=models, values={})
