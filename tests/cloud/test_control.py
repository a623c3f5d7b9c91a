"""Who may ask the cloud for what, and what a bad question gets."""

from __future__ import annotations

import pytest

from msrt import errors
from msrt.journal.facts import NodeEnrolled
from msrt.protocol.messages import Event
from msrt.trust.identity import Purpose, verify
from msrt.trust.invite import Invite
from tests.cloud.rig import device, simulate, until
from tests.runtime.hop.tree import identity
from tests.runtime.inference.models import mlp

OPERATORS = [
    "invite.create", "status", "node.list", "node.label", "node.remove", "node.decommission", "node.logs",
    "node.diagnose", "model.push", "model.list", "model.show", "model.rollout", "model.rollback", "train.run",
    "train.stop", "events.after",
]  # fmt: skip


def test_a_client_may_ask_for_edges_and_change_nothing():
    """Every operator's method is refused by role, before its parameters are looked at."""

    async def scenario(rig):
        client = await rig.member("client", "client")
        assert await client.ask("edges") == []
        for method in OPERATORS:
            with pytest.raises(errors.Forbidden, match="msrt login"):
                await client.ask(method, nonsense=1)

    simulate(scenario)


def test_an_edge_may_neither_invite_nor_push():
    """It relays enrolments and fetches artifacts; desired state is the operators'."""

    async def scenario(rig):
        edge = await rig.edge()
        for method in ("invite.create", "model.push", "model.rollout", "node.remove", "train.run", "status"):
            with pytest.raises(errors.Forbidden):
                await edge.ask(method)
        assert [parent["node"] for parent in await edge.ask("edges")] == [edge.one.node]

    simulate(scenario)


def test_a_device_is_sent_to_its_edge():
    """With a good certificate it still has no business here."""

    async def scenario(rig):
        with pytest.raises(AssertionError):
            await rig.member("camera", "device", "north")
        refused = rig.sim.node("camera").uplink.refused
        assert isinstance(refused, errors.Forbidden)
        assert "joins an edge" in refused.text

    simulate(scenario)


def test_a_method_that_is_not_there_is_named():
    """An older cloud says so, instead of hanging."""

    async def scenario(rig):
        with pytest.raises(errors.NotFound, match=r"no method 'model\.polish'; upgrade"):
            await rig.operator.ask("model.polish")

    simulate(scenario)


@pytest.mark.parametrize(
    ("method", "params", "word"),
    [
        ("invite.create", {"role": "edge", "regoin": "north"}, "regoin"),
        ("invite.create", {}, "role"),
        ("node.logs", {"node": "edge", "lines": "many"}, "lines"),
        ("model.rollout", {"model": ["net"]}, "model"),
        ("train.status", {"job": 3}, "job"),
    ],
)
def test_a_bad_parameter_is_named(method, params, word):
    """Unknown, missing or of another type: a typed error that says which."""

    async def scenario(rig):
        with pytest.raises(errors.CallerError, match=rf"{method}.*{word}"):
            await rig.operator.ask(method, **params)

    simulate(scenario)


def test_only_operators_send_files():
    """A client or an edge that streams an artifact is refused, and nothing of it is kept."""

    async def scenario(rig):
        before = rig.cloud.artifacts.digests()  # signed metadata
        for one in (await rig.member("client", "client"), await rig.edge()):
            with pytest.raises(errors.Forbidden, match="may not send a stream artifact"):
                await one.upload(b"model")
        assert rig.cloud.artifacts.digests() == before

    simulate(scenario)


def test_a_file_that_was_never_sent_or_is_too_large_is_not_looked_at():
    """The bounds are the settings'."""

    async def scenario(rig):
        with pytest.raises(errors.NotFound, match="no model 000000000000 was sent"):
            await rig.operator.ask("model.push", name="net", file="0" * 64)
        with pytest.raises(errors.FrameTooLarge):
            await rig.push(mlp())
        with pytest.raises(errors.FrameTooLarge):
            await rig.operator.ask("train.run", bundle=await rig.operator.upload(b"x" * 400))

    simulate(scenario, model_bytes=100, job_bundle_bytes=300)


def test_a_device_is_invited_to_an_edge_that_is_there():
    """Its invite names the edges of its region first; without one it could not be used."""

    async def scenario(rig):
        with pytest.raises(errors.Unavailable, match="msrt edge join"):
            await rig.operator.ask("invite.create", role="device")
        await rig.edge("edge-s", "south")
        with pytest.raises(errors.Unavailable, match="region 'north'"):
            await rig.operator.ask("invite.create", role="device", region="north")
        await rig.edge("edge-n", "north")
        made = await rig.operator.ask("invite.create", role="device", region="north", labels={"site": "a"})
        invite = Invite.parse(made["invite"], 0.0)
        assert (invite.role, invite.region, invite.labels) == ("device", "north", {"site": "a"})
        assert [parent.region for parent in invite.parents] == ["north", "south"]
        anywhere = Invite.parse((await rig.operator.ask("invite.create", role="device"))["invite"], 0.0)
        assert anywhere.region == anywhere.parents[0].region

    simulate(scenario)


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"role": "cloud"}, errors.CallerError),
        ({"role": "edge"}, errors.InvalidAddress),
        ({"role": "edge", "region": "No Region"}, errors.InvalidAddress),
        ({"role": "operator", "labels": {"a b": "c"}}, errors.InvalidAddress),
    ],
)
def test_an_invite_that_makes_no_sense_is_not_written_down(params, error):
    """The journal holds only invites that somebody can use."""

    async def scenario(rig):
        before = rig.cloud.writer.log.offset
        with pytest.raises(error):
            await rig.operator.ask("invite.create", **params)
        assert rig.cloud.writer.log.offset == before

    simulate(scenario)


def test_labels_are_set_and_removed_by_key():
    """What is not named stays; a bad one changes nothing."""

    async def scenario(rig):
        edge = await enrolled(rig, "edge-1")
        await rig.operator.ask("node.label", node="edge-1", labels={"site": "a", "floor": "2"})
        found = await rig.operator.ask("node.label", node=edge, labels={"site": "b"}, remove=["floor", "none"])
        assert found == {"node": edge, "labels": {"site": "b"}}
        with pytest.raises(errors.InvalidAddress):
            await rig.operator.ask("node.label", node=edge, labels={"bad key": "x"})
        with pytest.raises(errors.NotFound, match="msrt node list"):
            await rig.operator.ask("node.label", node="nobody", labels={})
        assert rig.cloud.writer.state.labels(edge) == {"site": "b"}

    simulate(scenario)


def test_a_removed_node_is_sent_away_at_once_and_for_good():
    """Its session ends, its certificate is void, its name means nobody any more."""

    async def scenario(rig):
        await enrolled(rig, "edge-1")
        edge = await rig.edge("edge-1", "north")
        await rig.operator.ask("node.remove", node="edge-1", reason="sold")
        await until(lambda: isinstance(edge.uplink.refused, errors.Revoked))
        assert edge.peer is None
        assert all(row["name"] != "edge-1" for row in await rig.operator.ask("node.list"))
        with pytest.raises(errors.NotFound):
            await rig.operator.ask("node.remove", node="edge-1")

    simulate(scenario)


def test_a_decommissioned_device_has_an_order_that_only_the_cloud_can_sign():
    """By the serial number of its board as well as by name. It is revoked, and whoever sends it away has the order at
    hand; edges are removed, not wiped."""

    async def scenario(rig):
        node = identity("d1").node
        await rig.cloud.writer.append(NodeEnrolled(node, "device", "d1", "north", board="SN-1"))
        assert (await rig.operator.ask("node.list"))[-1]["serial"] == "SN-1"
        assert await rig.operator.ask("node.decommission", node="SN-1") == {"node": node, "connected": False}
        for gone in ("SN-1", "d1"):
            with pytest.raises(errors.NotFound, match="no node is named"):
                await rig.operator.ask("node.decommission", node=gone)
        state = rig.cloud.writer.state
        assert state.is_revoked(node)
        verify(rig.cloud.identity.public, node.encode(), state.orders[node], Purpose.WIPE)
        await enrolled(rig, "edge-1")
        with pytest.raises(errors.CallerError, match="no device but edge"):
            await rig.operator.ask("node.decommission", node="edge-1")

    simulate(scenario)


def test_a_node_is_asked_through_its_edge():
    """The answer is the node's own; one that is away is unavailable, not silent."""

    async def scenario(rig):
        camera = await enrolled(rig, "camera", "device")
        with pytest.raises(errors.Unavailable, match="camera is away"):
            await rig.operator.ask("node.logs", node="camera")
        edge = await rig.edge("edge", "north", device("camera"))
        asked = []

        async def called(_peer, method, params):
            asked.append((method, params["node"], params["lines"]))
            return ["one line"]

        edge.called = called
        assert await rig.operator.ask("node.logs", node="camera", lines=7) == ["one line"]
        assert asked == [("node.logs", camera, 7)]
        rig.sim.crash("edge")
        await until(lambda: not any(e.alive for e in rig.cloud.fleet.edges.values()))
        with pytest.raises(errors.Unavailable):
            await rig.operator.ask("node.diagnose", node="camera")

    simulate(scenario)


def test_only_edges_post_events():
    """An operator who does breaks the rules of the hop, and no event is kept."""

    async def scenario(rig):
        rig.operator.peer.send(Event("n", 1, "n", "s", "m", 1, 0.0, {}))
        edge = await rig.edge()
        edge.peer.send(Event("n", 1, "n", "s", "m", 1, 0.0, {}))
        await until(lambda: rig.cloud.events.last == 1)
        found = await rig.operator.ask("events.after", after=0)
        assert [event["node"] for event in found["events"]] == ["n"]

    simulate(scenario)


async def enrolled(rig, name, role="edge"):
    """Write a member's enrolment into the journal; its node id."""
    one = identity(name)
    await rig.cloud.writer.append(
        NodeEnrolled(one.node, role, name, "north", identity=one.public, link_key=one.link_public, serial=1)
    )
    return one.node
