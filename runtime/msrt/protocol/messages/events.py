"""What devices found."""

from __future__ import annotations

from msrt.protocol.messages.base import Durable

__all__ = ["Event"]


class Event(Durable, frozen=True, tag="event"):
    """A reading turned into a finding, by a model on a device."""

    node: str
    seq: int
    """Per node, without gaps over restarts: (node, seq) is the event's id."""
    name: str
    """The device's name."""
    source: str
    model: str
    version: int
    wall: float
    """Seconds since 1970, the device's clock."""
    data: dict[str, object]
    region: str = ""
