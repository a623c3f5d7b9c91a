"""Who lives where: what edges report of themselves and their devices, beside what the journal says is enrolled."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from msrt import errors
from msrt.hop import Peer
from msrt.journal.state import Node, State
from msrt.protocol.address import Selector
from msrt.protocol.messages import DeviceRecord, FleetReport, Parent
from msrt.trust.roles import Role
from msrt_cloud.crowd import Crowd
from msrt_cloud.rollout import Seen

__all__ = ["EdgeSeen", "Fleet"]

CROWDS = 32
"""Selectors that are kept as an index: those of jobs, rollouts and campaigns under way."""


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
    named: set[str] = field(default_factory=set)
    """Devices that it spoke of since its sweep began."""
    due: tuple[int, int] = (0, 0)
    """The sweep's number and the part that comes next."""


class Fleet:
    """All edges by node id. A device is where an edge last said that it is alive."""

    def __init__(self) -> None:
        self.edges: dict[str, EdgeSeen] = {}
        self.own: Callable[[], DeviceRecord | None] = lambda: None
        """The cloud's own engine."""
        self._homes: dict[str, dict[str, None]] = {}
        """Device to the edges that speak of it, in the order in which they began to."""
        self._crowds: OrderedDict[str, Crowd] = OrderedDict()
        """By selector, least recently asked first."""

    def remembered(self, edges: Iterable[EdgeSeen]) -> None:
        """What a cloud before this one knew of edges."""
        self.edges.update((edge.node, edge) for edge in edges)

    def joined(self, peer: Peer, now: float) -> EdgeSeen:
        """An edge's session is live."""
        certificate = peer.certificate
        assert certificate is not None
        edge = self.edges.setdefault(peer.node, EdgeSeen(peer.node, certificate.name, certificate.region))
        edge.name, edge.region = certificate.name, certificate.region
        edge.alive, edge.reported, edge.since, edge.address = True, False, now, peer.address or edge.address
        edge.due = (0, 0)
        self._touch(edge.devices)
        return edge

    def left(self, node: str, now: float) -> None:
        """An edge is away; its devices may have moved."""
        edge = self.edges.get(node)
        if edge is not None:
            edge.alive, edge.since = False, now
            self._touch(edge.devices)

    def removed(self, node: str) -> None:
        """An edge is of the tree no more: nobody is sent there."""
        edge = self.edges.pop(node, None)
        if edge is not None:
            self._touch(edge.devices)
            self._nobody_at(edge, edge.devices)

    def _nobody_at(self, edge: EdgeSeen, devices: Iterable[str]) -> None:
        """It speaks of these no more."""
        for device in devices:
            homes = self._homes[device]
            del homes[edge.node]
            if not homes:
                del self._homes[device]

    def report(self, node: str, report: FleetReport) -> frozenset[str]:
        """What an edge says of its devices: all, a part of a sweep, or what changed. The devices it was about."""
        edge = self.edges.get(node)
        if edge is None:
            return frozenset()
        edge.position, edge.values = report.position, report.values
        said = {device.node for device in report.devices}
        for device in report.devices:
            edge.devices[device.node] = device
            self._homes.setdefault(device.node, {})[node] = None
        if (report.sweep and not report.part) or (not report.sweep and report.last):
            edge.due, edge.named = (report.sweep, 0), set()
        edge.named |= said
        self._touch(said)
        if (report.sweep, report.part) != edge.due or not (report.sweep or report.last):
            return frozenset(said)  # only what changed, or a part of a sweep that we have no beginning of
        edge.due = (report.sweep, report.part + 1)
        if not report.last:
            return frozenset(said)
        edge.reported = True
        gone = edge.devices.keys() - edge.named
        self._touch(gone)
        for device_node in gone:
            del edge.devices[device_node]
        self._nobody_at(edge, gone)
        return frozenset(said | gone)

    def load(self, node: str, values: dict[str, float]) -> None:
        """What an edge measures of itself."""
        edge = self.edges.get(node)
        if edge is not None:
            edge.values = values

    def home(self, device: str) -> EdgeSeen | None:
        """The edge where a device lives now."""
        for node in self._homes.get(device, ()):
            edge = self.edges[node]
            if edge.alive and edge.devices[device].alive:
                return edge
        return None

    def heard(self) -> set[str]:
        """Living edges whose devices are known."""
        return {node for node, edge in self.edges.items() if edge.alive and edge.reported}

    def devices(self) -> Iterator[tuple[EdgeSeen, DeviceRecord]]:
        """Every device once, at the edge where it lives, or where it was last seen. What changes meanwhile is seen, or
        not.
        """
        return (found for node in list(self._homes) if (found := self.seen(node)) is not None)

    def seen(self, node: str) -> tuple[EdgeSeen, DeviceRecord] | None:
        """Where a device lives, else where it was last seen; an edge's own engine is none."""
        best = None
        for home in self._homes.get(node, ()):
            edge = self.edges[home]
            if home == node:
                continue
            device = edge.devices[node]
            if edge.alive and device.alive:
                return edge, device
            best = best or (edge, device)
        return best

    def living(self) -> Iterator[tuple[EdgeSeen, DeviceRecord]]:
        """Devices that work now."""
        return ((edge, device) for edge, device in self.devices() if edge.alive and device.alive)

    def matching(self, selector: str) -> list[Seen]:
        """Living devices that a selector names, by name. Raises InvalidAddress."""
        parsed = Selector.parse(selector)
        found = [Seen(edge.region, device) for edge, device in map(self._at, self.crowd(selector)) if edge and device]
        if parsed.names("tier"):  # masters run only what is meant for them
            found += [seen for seen in self.masters() if parsed.matches(_labels(seen.region, seen.device))]
        return found

    def crowd(self, selector: str) -> Crowd:
        """The same as an index of node ids, which follows what edges say. Raises InvalidAddress."""
        found = self._crowds.get(selector)
        if found is None:
            parsed = Selector.parse(selector)

            def name_of(node: str) -> str | None:
                edge, device = self._at(node)
                if edge is None or device is None or not parsed.matches(_labels(edge.region, device)):
                    return None
                return device.name

            found = self._crowds[selector] = Crowd(name_of, self._homes)
            if len(self._crowds) > CROWDS:
                self._crowds.popitem(last=False)
        self._crowds.move_to_end(selector)
        found.settle()
        return found

    def record(self, node: str) -> DeviceRecord | None:
        """What is said of a device that lives."""
        return self._at(node)[1]

    def _at(self, node: str) -> tuple[EdgeSeen, DeviceRecord] | tuple[None, None]:
        """Where a device works now; an edge's own engine is none."""
        for home in self._homes.get(node, ()):
            edge = self.edges[home]
            if edge.alive and home != node and edge.devices[node].alive:
                return edge, edge.devices[node]
        return None, None

    def _touch(self, nodes: Iterable[str]) -> None:
        for crowd in self._crowds.values():
            crowd.touch(nodes)

    def masters(self) -> list[Seen]:
        """Living edges, and the cloud, that can run models themselves."""
        out = []
        for edge in self.edges.values():
            if not edge.alive:
                continue
            labels = {"tier": "edge"}
            record = edge.devices.get(edge.node) or DeviceRecord(edge.node, edge.name, True, "master", labels, ())  # noqa: FBT003
            out.append(Seen(edge.region, record))
        own = self.own()
        return [*out, Seen("", own)] if own is not None else out

    def holders(self, model: str) -> list[EdgeSeen]:
        """Living edges where somebody has it ready."""
        return [
            edge
            for edge in self.edges.values()
            if edge.alive
            and any(
                m.model == model and m.state == "ready"
                for device in edge.devices.values()
                if device.alive
                for m in device.models
            )
        ]

    def parents(self, region: str) -> tuple[Parent, ...]:
        """Edges a device of this region may go to: living ones of its region first."""
        known = [edge for edge in self.edges.values() if edge.address is not None]
        known.sort(key=lambda e: (e.region != region, not e.alive, e.name))
        return tuple(edge.address for edge in known if edge.address is not None)

    def find(self, state: State, name: str) -> Node:
        """An enrolled node by id, name, or its board's serial number. Raises NotFound, Conflict where two share it."""
        if name in state.nodes:
            return state.nodes[name]
        found = state.named(name) or self._on_board(state, name)
        if not found:
            raise errors.NotFound(f"no node is named {name!r}", hint="msrt node list")
        if len(found) > 1:
            raise errors.Conflict(f"{len(found)} nodes are named {name!r}", hint="use the node id of msrt node list")
        return found[0]

    def _on_board(self, state: State, serial: str) -> list[Node]:
        """Nodes that say, or said when they came, that their board has this serial number."""
        if not serial:
            return []
        now = {device.node for _, device in self.devices() if device.serial == serial}
        return [
            node for node in state.nodes.values()
            if not node.revoked and (node.node in now or node.enrolled.board == serial)
        ]  # fmt: skip

    def edge_of(self, node: Node) -> EdgeSeen:
        """The living edge of a device, or the edge itself. Raises Unavailable."""
        if node.role == Role.EDGE:
            edge = self.edges.get(node.node)
            if edge is not None and edge.alive:
                return edge
        at = self.home(node.node)
        if at is not None:
            return at
        raise errors.Unavailable(f"{node.name} is away")


def _labels(region: str, device: DeviceRecord) -> Mapping[str, str]:
    """What selectors are held against."""
    own = {"name": device.name, "region": region, "class": device.device_class}
    return {"tier": "device", **device.labels, **own}
