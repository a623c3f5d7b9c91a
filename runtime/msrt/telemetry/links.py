"""Bytes of a node's links, by transport and direction."""

from __future__ import annotations

from collections.abc import Iterable

from msrt.links.link import Link

__all__ = ["link_bytes"]

_NAMES = {"tcp": "zmq", "ipc": "zmq", "mqtts": "mqtt"}


def link_bytes(links: Iterable[Link]) -> dict[tuple[str, ...], float]:
    """(link, direction) to bytes since the start."""
    out: dict[tuple[str, ...], float] = {}
    for link in links:
        scheme = link.address.partition(":")[0]
        name = _NAMES.get(scheme, scheme)
        for direction, number in (("out", link.sent_bytes), ("in", link.received_bytes)):
            out[name, direction] = out.get((name, direction), 0.0) + number
    return out
