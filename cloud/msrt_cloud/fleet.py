"""Who lives where: what edges report of themselves and their devices, beside what the journal says is enrolled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from msrt import errors
from msrt.hop import Peer
from msrt.journal.state import Node, State
from msrt.protocol.address import Selector
from msrt.protocol.messages import DeviceRecord, FleetReport, Parent
from msrt.trust.roles import Role
from msrt_cloud.rollout import Seen

__all__ = ["EdgeSeen", "Fleet"]


@dataclass
class EdgeSeen:
    """One edge and what it last said."""

    node: str
    name: str
    region: str
    alive: bool = False
    reported: bool = False
    """It has spoken of its devices since it came."""
    since: float = 0.0
    address: Parent | None = None
    position: dict[str, int] = field(default_factory=dict)
    devices: dict[str, DeviceRecord] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)


class Fleet:
    """All edges by node id. A device is where an edge last said that it is alive."""

    def __init__(self) -> None:
        self.edges: dict[str, EdgeSeen] = {}

    def joined(self, peer: Peer, now: float) -> EdgeSeen:
        """An edge's session is live."""
        certificate = peer.certificate
        assert certificate is not None
        edge = self.edges.setdefault(peer.node, EdgeSeen(peer.node, certificate.name, certificate.region))
        edge.alive, edge.reported, edge.since, edge.address = True, False, now, peer.address or edge.address
        return edge

    def left(self, node: str, now: float) -> None:
        """An edge is away; its devices may have moved."""
        edge = self.edges.get(node)
        if edge is not None:
            edge.alive, edge.since = False, now

    def report(self, node: str, report: FleetReport) -> None:
        """What an edge says of its devices, whole."""
        edge = self.edges.get(node)
        if edge is not None:
            edge.reported, edge.position, edge.values = True, report.position, report.values
            edge.devices = {device.node: device for device in report.devices}

    def heard(self) -> set[str]:
        """Living edges whose devices are known."""
        return {node for node, edge in self.edges.items() if edge.alive and edge.reported}

    def devices(self) -> Iterator[tuple[EdgeSeen, DeviceRecord]]:
        """Every device once, at the edge where it lives, or where it was last seen."""
        best: dict[str, tuple[EdgeSeen, DeviceRecord]] = {}
        for edge in self.edges.values():
            for device in edge.devices.values():
                held = best.get(device.node)
                if held is None or (edge.alive and device.alive) > (held[0].alive and held[1].alive):
                    best[device.node] = (edge, device)
        yield from best.values()

    def living(self) -> Iterator[tuple[EdgeSeen, DeviceRecord]]:
        """Devices that work now."""
        return ((edge, device) for edge, device in self.devices() if edge.alive and device.alive)

    def matching(self, selector: str) -> list[Seen]:
        """Living devices that a selector names. Raises InvalidAddress."""
        parsed = Selector.parse(selector)
        return [
            Seen(edge.region, device)
            for edge, device in self.living()
            if parsed.matches(
                {**device.labels, "name": device.name, "region": edge.region, "class": device.device_class}
            )
        ]

    def parents(self, region: str) -> tuple[Parent, ...]:
        """Edges a device of this region may go to: living ones of its region first."""
        known = [edge for edge in self.edges.values() if edge.address is not None]
        known.sort(key=lambda e: (e.region != region, not e.alive, e.name))
        return tuple(edge.address for edge in known if edge.address is not None)

    def find(self, state: State, name: str) -> Node:
        """An enrolled node by id or name. Raises NotFound, Conflict when two roles share the name."""
        if name in state.nodes:
            return state.nodes[name]
        found = state.named(name)
        if not found:
            raise errors.NotFound(f"no node is named {name!r}", hint="msrt node list")
        if len(found) > 1:
            raise errors.Conflict(f"{len(found)} nodes are named {name!r}", hint="use the node id of msrt node list")
        return found[0]

    def edge_of(self, node: Node) -> EdgeSeen:
        """The living edge of a device, or the edge itself. Raises Unavailable."""
        if node.role == Role.EDGE:
            edge = self.edges.get(node.node)
            if edge is not None and edge.alive:
                return edge
        for at, device in self.living():
            if device.node == node.node:
                return at
        raise errors.Unavailable(f"{node.name} is away")
