"""May a training round open? Decided on who is here, and on who was here before the cloud was away. Pure.

A quorum is a share of those whom the cloud sees when a round opens. Just after its start it sees part of the tree only:
edges come back one by one, so for a while it waits for those it knew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec

from msrt.journal.state import Job, Node, State
from msrt.protocol.address import Selector
from msrt.trust.roles import Role

__all__ = ["Candidates", "Muster", "muster"]


class Muster(msgspec.Struct, frozen=True):
    """Whom a round waits for: `least` devices for ever; these edges and devices until `until`."""

    least: int
    why: str
    """What of the job asks for so many, for who reads whom it waits for; and ..."""
    until: float
    select: str = ""
    """... what the devices must be."""
    edges: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()

    def missing(self, edges: Collection[str], devices: Collection[str], able: int, now: float) -> str:
        """Who is missing, in words; nothing when the round may open with so many of these devices."""
        if able < self.least:
            which = f" with {self.select}" if self.select else ""
            because = f" ({self.why})" if self.why else ""
            return f"waiting for {self.least} device{'s'[: self.least > 1]}{which}, {able} are here{because}"
        if now >= self.until:
            return ""
        away = (len(self.edges.difference(edges)), "edge"), (len(self.devices.difference(devices)), "device")
        named = " and ".join(f"{count} {what}{'s'[: count > 1]}" for count, what in away if count)
        return f"waiting for {named} to come back" if named else ""


def muster(state: State, job: Job, due: Muster) -> Muster:
    """`due` with who is expected: all enrolled edges, and the devices of the last checkpoint; before the first one, all
    enrolled.
    """
    edges = frozenset(node.node for node in state.nodes.values() if node.role == Role.EDGE and not node.revoked)
    known = Candidates(state, due.select)
    devices = (node for node in job.advanced.included if node in known) if job.advanced else known
    here = frozenset(node for node in devices if not state.nodes[node].revoked)
    return msgspec.structs.replace(due, edges=edges, devices=here)


class Candidates:
    """Devices that may have taken part, removed ones too: whom a selector names, as far as the journal knows them.

    To ask of one costs nothing; to go through them costs what the tree has of nodes.
    """

    def __init__(self, state: State, select: str) -> None:
        self._state = state
        self._wanted = Selector(tuple(pair for pair in Selector.parse(select).wanted if pair[0] != "class"))

    def __contains__(self, node: object) -> bool:
        known = self._state.nodes.get(node) if isinstance(node, str) else None
        return known is not None and self._named(known)

    def __iter__(self) -> Iterator[str]:
        return (node.node for node in self._state.nodes.values() if self._named(node))

    def _named(self, node: Node) -> bool:
        labels = {**node.labels, "name": node.name, "region": node.region}
        return node.role == Role.DEVICE and self._wanted.matches(labels)
