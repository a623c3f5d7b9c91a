"""What devices hold and how it fares, told upwards."""

from __future__ import annotations

import msgspec

from msrt.protocol.messages.base import Session, Transient
from msrt.protocol.messages.updates import UpdateState

__all__ = [
    "Assign", "DeviceRecord", "DeviceReport", "FleetReport", "Load", "ModelState", "Placement", "ServedRow",
    "ServingReport",
]  # fmt: skip


class Placement(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model version a device should hold."""

    model: str
    version: int
    variant: str
    """fp32, int8, or measure: try both and report."""
    manifest: bytes
    """The model's signed manifest (see msrt.inference.bundle)."""
    signature: bytes
    serve: bool = True
    """False: load and warm, take no traffic by default (a canary's other half)."""


class Assign(Session, frozen=True, tag="assign"):
    """Edge to device: all the models you should hold; what is not named may go."""

    generation: int
    models: tuple[Placement, ...]
    more: bool = False
    """The rest of this generation follows: what is not named here does not go yet."""


class ModelState(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one model version fares on a device."""

    model: str
    version: int
    variant: str
    state: str
    """fetching, loading, ready, failed."""
    error: str = ""
    batch: bool = False
    """Axis 0 is free: requests may ride together."""
    latency_us: dict[str, int] = msgspec.field(default_factory=dict)
    """Measured time of one call by variant."""
    requests: int = 0
    failures: int = 0
    cold: bool = False
    """Ready, but not in memory: the next request waits until it is loaded again."""


class DeviceReport(Session, frozen=True, tag="device.report"):
    """Device to edge: what is loaded and how it fares; sent on every change."""

    generation: int
    models: tuple[ModelState, ...]
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    sources: dict[str, str] = msgspec.field(default_factory=dict)
    """Source name to state."""
    updates: tuple[UpdateState, ...] = ()
    """Of each kind of image that it can be updated with."""


class Load(Transient, frozen=True, tag="load"):
    """Node to parent, every few seconds: numbers for `status` and for placement."""

    values: dict[str, float]


class FleetReport(Session, frozen=True, tag="fleet.report"):
    """Edge to cloud: its devices, in parts: changes soon, and everybody in turn (a sweep)."""

    position: dict[str, int]
    """Journal positions by scope that the edge has on disk."""
    devices: tuple[DeviceRecord, ...]
    values: dict[str, float] = msgspec.field(default_factory=dict)
    sweep: int = 0
    """Number of the sweep of which this is a part; 0 with `last`: all in one report, without: only what changed."""
    part: int = 0
    """Of the sweep, from 0, without gaps."""
    last: bool = True
    """Who was named neither in this sweep nor in a report since it began is gone."""


class DeviceRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One device as its edge sees it."""

    node: str
    name: str
    alive: bool
    device_class: str
    labels: dict[str, str]
    models: tuple[ModelState, ...]
    link: str = ""
    values: dict[str, float] = msgspec.field(default_factory=dict)
    sources: dict[str, str] = msgspec.field(default_factory=dict)
    updates: tuple[UpdateState, ...] = ()
    agent: str = ""
    """Version of the program that it runs."""
    serial: str = ""
    """Serial number of its board."""


class ServedRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one model version answered at one edge since that edge started. Counts only grow; times are summed."""

    model: str
    version: int
    answered: int = 0
    failed: dict[str, int] = msgspec.field(default_factory=dict)
    """Error code to requests whose callers were told so."""
    faults: int = 0
    """Requests that a device could not answer, whatever became of them afterwards."""
    batches: int = 0
    rows: int = 0
    """In those batches."""
    queue_us: int = 0
    compute_us: int = 0
    hits: int = 0
    """Of `answered`: by the result cache."""
    misses: int = 0
    elsewhere: int = 0
    """Of `answered`: by another master."""
    escalated: int = 0
    """Rows that a cascade sent to the larger model."""
    copies: int = 0
    """For this version, made by a shadow; none of them is in `answered`."""
    judged: int = 0
    """Of these, compared with the answer that was given."""
    disagreed: int = 0
    latency: dict[int, int] = msgspec.field(default_factory=dict)
    """Times of the answered: histogram bucket (8 for each doubling of the microseconds) to count."""


class ServingReport(Session, frozen=True, tag="serving.report"):
    """Edge to cloud: how models were served. The latest word on a version takes the place of earlier ones."""

    boot: int
    """Of the edge's process: with another one its counts began again."""
    rows: tuple[ServedRow, ...]
    """Versions of which something changed, at most 64 at a time."""
