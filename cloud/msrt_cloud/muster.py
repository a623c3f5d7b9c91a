"""May a training round open? Decided on who is here, and on who was here before the cloud was away. Pure.

A quorum is a share of those whom the cloud sees when a round opens. Just after its start it sees part of the tree only:
edges come back one by one, so for a while it waits for those it knew.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from msrt.journal.state import Job, Node, State
from msrt.protocol.address import Selector
from msrt.trust.roles import Role

__all__ = ["Muster", "candidates", "muster"]


class Muster(msgspec.Struct, frozen=True):
    """Whom a round waits for: `least` devices for ever; these edges and devices until `until`."""

    least: int
    until: float
    edges: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()

    def missing(self, edges: Collection[str], devices: Collection[str], now: float) -> str:
        """Who is missing, in words; nothing when the round may open with these devices."""
        if len(devices) < self.least:
            return f"waiting for {self.least} devices, {len(devices)} are here"
        if now >= self.until:
            return ""
        away = len(self.edges.difference(edges)), len(self.devices.difference(devices))
        return f"waiting for {away[0]} edges and {away[1]} devices to come back" if any(away) else ""


def muster(state: State, job: Job, least: int, select: str, until: float) -> Muster:
    """Expected are all enrolled edges, and the devices of the last checkpoint; before the first one, all enrolled."""
    enrolled = {node.node for node in state.nodes.values() if not node.revoked}
    edges = frozenset(node for node in enrolled if state.nodes[node].role == Role.EDGE)
    devices = candidates(state, select) & enrolled
    return Muster(least, until, edges, devices.intersection(job.advanced.included) if job.advanced else devices)


def candidates(state: State, select: str) -> frozenset[str]:
    """Devices that may have taken part, removed ones too: whom a selector names, as far as the journal knows them."""
    wanted = Selector(tuple(pair for pair in Selector.parse(select).wanted if pair[0] != "class"))
    return frozenset(node.node for node in state.nodes.values() if node.role == Role.DEVICE and _named(node, wanted))


def _named(node: Node, wanted: Selector) -> bool:
    return wanted.matches({**node.labels, "name": node.name, "region": node.region})
