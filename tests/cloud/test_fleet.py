"""Who lives where, by what edges say."""

from __future__ import annotations

import pytest

from msrt import errors
from msrt.hop import Peer
from msrt.journal.facts import NodeEnrolled, NodeRevoked
from msrt.journal.state import State
from msrt.protocol.messages import FleetReport, Parent
from msrt.trust.certificate import Certificate
from msrt_cloud.fleet import Fleet
from tests.cloud.rig import device
from tests.runtime.hop.tree import identity


def joined(fleet, name, region, *devices, now=0.0):
    """An edge that joined and reported."""
    one = identity(name)
    peer = Peer.__new__(Peer)
    peer.node = one.node
    peer.certificate = Certificate(
        node=one.node, role="edge", name=name, identity=one.public, link_key=one.link_public, region=region
    )
    peer.address = Parent(one.node, region=region)
    edge = fleet.joined(peer, now)
    fleet.report(one.node, FleetReport({"global": 3}, devices, {"queue": 2.0}))
    return edge


@pytest.fixture
def fleet():
    """Two edges with two devices each."""
    made = Fleet()
    joined(made, "edge-n", "north", device("a"), device("b", site="b"))
    joined(made, "edge-s", "south", device("c"), device("d", alive=False))
    return made


def names(pairs):
    return sorted(record.name for _, record in pairs)


def test_living_devices_are_those_of_living_edges(fleet):
    """A device whose edge is away may be anywhere: it does not count until somebody says so."""
    assert names(fleet.living()) == ["a", "b", "c"]
    fleet.left(identity("edge-n").node, 5.0)
    assert names(fleet.living()) == ["c"]
    assert names(fleet.devices()) == ["a", "b", "c", "d"]


def test_a_device_that_moved_is_counted_once_where_it_lives(fleet):
    """Its old edge still names it; the one that has it alive is right, whatever the order of the reports."""
    joined(fleet, "edge-s", "south", device("a"))
    fleet.left(identity("edge-n").node, 5.0)
    where = {record.name: edge.name for edge, record in fleet.devices()}
    assert where["a"] == "edge-s"
    joined(fleet, "edge-n", "north", device("a", alive=False))
    where = {record.name: edge.name for edge, record in fleet.devices()}
    assert where["a"] == "edge-s"


def test_a_report_is_whole(fleet):
    """Who is not named any more is gone from that edge."""
    joined(fleet, "edge-n", "north", device("b"))
    assert names(fleet.devices()) == ["b", "c", "d"]


def test_the_devices_of_an_edge_that_was_removed_are_at_home_where_they_went(fleet):
    """And what it may still say changes nothing."""
    gone = identity("edge-n").node
    joined(fleet, "edge-s", "south", device("a"))
    fleet.removed(gone)
    assert names(fleet.devices()) == ["a"]
    assert fleet.home(device("a").node).name == "edge-s"
    assert fleet.home(device("b").node) is None
    fleet.removed(gone)
    fleet.load(gone, {"queue": 1.0})
    assert list(fleet.edges) == [identity("edge-s").node]


def test_an_edge_that_joined_anew_is_called_as_its_certificate_says(fleet):
    """It keeps its keys, and with them its id."""
    node = identity("edge-n").node
    moved = Certificate(node=node, role="edge", name="harbour", identity=b"", link_key=b"", region="west")
    peer = Peer.__new__(Peer)
    peer.node, peer.certificate, peer.address = node, moved, None
    edge = fleet.joined(peer, 9.0)
    assert (edge.name, edge.region) == ("harbour", "west")


def test_a_report_of_nobody_is_nothing():
    """A stranger's word adds no edge."""
    made = Fleet()
    made.report("stranger", FleetReport({}, (device("x"),)))
    made.left("stranger", 1.0)
    assert made.edges == {}


@pytest.mark.parametrize(
    ("selector", "found"),
    [("", "abc"), ("site=a", "ac"), ("site=a,region=north", "a"), ("name=c", "c"), ("class=sim", "abc"), ("x=y", "")],
)
def test_a_selector_names_living_devices_by_label_name_region_and_class(fleet, selector, found):
    """Labels and what everybody knows of a device."""
    assert sorted(seen.device.name for seen in fleet.matching(selector)) == list(found)


def test_a_malformed_selector_is_refused(fleet):
    """Before anything is rolled out by it."""
    with pytest.raises(errors.InvalidAddress):
        fleet.matching("site==")


def test_parents_are_of_the_own_region_first_and_the_living_before_the_dead(fleet):
    """A device tries them in this order."""
    joined(fleet, "edge-a", "north")
    fleet.left(identity("edge-a").node, 1.0)
    order = ["edge-n", "edge-a", "edge-s"]
    assert [parent.node for parent in fleet.parents("north")] == [identity(name).node for name in order]
    assert fleet.parents("south")[0].node == identity("edge-s").node


def test_a_node_is_found_by_name_or_id():
    """A name that two roles share is refused with the way out; a removed node's name is nobody's."""
    state, fleet = State(), Fleet()
    state.apply(NodeEnrolled("n1", "device", "camera", "north"), 1)
    state.apply(NodeEnrolled("n2", "edge", "camera", "north"), 2)
    assert fleet.find(state, "n1").role == "device"
    with pytest.raises(errors.Conflict, match="node id"):
        fleet.find(state, "camera")
    state.apply(NodeRevoked("n2"), 3)
    assert fleet.find(state, "camera").node == "n1"
    with pytest.raises(errors.NotFound, match="msrt node list"):
        fleet.find(state, "toaster")


def test_a_device_is_reached_through_its_living_edge(fleet):
    """An edge through itself; who is away is unavailable."""
    state = State()
    for number, (name, role) in enumerate(
        [("a", "device"), ("d", "device"), ("edge-n", "edge"), ("edge-s", "edge")], 1
    ):
        state.apply(NodeEnrolled(identity(name).node, role, name, "north"), number)
    assert fleet.edge_of(fleet.find(state, "a")).name == "edge-n"
    assert fleet.edge_of(fleet.find(state, "edge-n")).name == "edge-n"
    fleet.left(identity("edge-s").node, 1.0)
    for away in ("d", "edge-s"):
        with pytest.raises(errors.Unavailable, match=f"{away} is away"):
            fleet.edge_of(fleet.find(state, away))
