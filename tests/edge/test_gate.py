"""Who comes in at an edge, with the cloud there and away."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from msrt import errors
from msrt.hop.uplink import enrol
from msrt.journal.facts import NodeRevoked
from msrt.links.link import Credentials
from msrt.protocol.messages import Enrol, Hello
from msrt.trust.certificate import prove
from msrt_edge.gate import EdgeGate
from tests.edge.rig import Child, certificate, identity, simulate, until
from tests.runtime.hop.tree import CLOUD, parent_of

STRANGER = identity("another cloud")


def gate(rig):
    """A gate as the edge has it."""
    edge = rig.edge
    return EdgeGate(CLOUD.public, lambda: edge.follower.state, edge.uplink, lambda: edge.known_edges)


def greets(name, blob=None, node=None):
    return Hello(node or identity(name).node, 1, certificate(name) if blob is None else blob)


@pytest.mark.parametrize("role", ["device", "client", "operator", "edge"])
def test_who_shows_a_certificate_of_the_cloud_comes_in(role):
    """With the link key that it names, or over MQTT with the user name of that node."""

    async def scenario(rig):
        hello = greets("x", certificate("x", role))
        for principal in (identity("x").link_public, identity("x").node.encode()):
            assert gate(rig).admit(hello, principal).role == role

    simulate(scenario, devices=())


@pytest.mark.parametrize(
    ("hello", "principal", "error"),
    [
        (greets("x", b""), "x", errors.NotEnrolled),
        (greets("x", b"junk" * 40), "x", errors.BadSignature),
        (greets("x", certificate("x", cloud=STRANGER)), "x", errors.BadSignature),
        (greets("x", certificate("y")), "x", errors.NotEnrolled),
        (greets("x"), "y", errors.NotEnrolled),
        (greets("x", certificate("x", "cloud")), "x", errors.Forbidden),
    ],
)
def test_who_does_not_is_refused_with_the_reason(hello, principal, error):
    """No certificate, a forged one, another cloud's, another node's, another's link, a role that is not for here."""

    async def scenario(rig):
        with pytest.raises(error):
            gate(rig).admit(hello, identity(principal).link_public)

    simulate(scenario, devices=())


def test_a_revoked_device_is_sent_away_and_stays_out():
    """As soon as the journal says so, and with the cloud away as well; a certificate issued later is good."""

    async def scenario(rig):
        await rig.cloud.writer.append(NodeRevoked(rig.d1.node, 1))
        await until(lambda: rig.seen("d1") is not None and not rig.seen("d1").alive)
        rig.sim.crash("cloud")
        await rig.reborn("edge")
        await until(lambda: isinstance(rig.d1.uplink.hopeless, errors.Revoked))
        assert rig.here("d2")
        link = identity("d1").link_public
        assert gate(rig).admit(greets("d1", certificate("d1", serial=2)), link).serial == 2

    simulate(scenario)


def test_a_decommissioned_device_hears_the_cloud_s_order_at_every_edge():
    """Also with the cloud away: the order lies in the journal."""

    async def scenario(rig):
        await rig.cloud.writer.append(NodeRevoked(rig.d1.node, 1, order=b"signed"))
        await until(lambda: getattr(rig.d1.uplink.refused, "order", b"") == b"signed")
        rig.sim.crash("cloud")
        await rig.reborn("edge")
        with pytest.raises(errors.Revoked) as raised:
            gate(rig).admit(greets("d1", certificate("d1", serial=1)), identity("d1").link_public)
        assert raised.value.order == b"signed"

    simulate(scenario)


async def ask(rig, secret=b"s" * 16):
    """A newcomer spends an invite at the edge."""
    one, edge = identity("newcomer"), parent_of("edge")
    request = Enrol("invite", secret, one.public, one.link_public, prove(one, "invite"), "newcomer")
    credentials = Credentials(secret_key=one.link_secret, server_key=edge.link_key)
    return await rig.sim.spawn("newcomer", enrol(rig.sim.world("newcomer"), "mem://edge", credentials, request, 30.0))


def test_a_joiner_is_relayed_and_gets_this_edge_as_its_parent():
    """The cloud spends the invite; whoever came here belongs here, and hears of the neighbours."""

    async def scenario(rig):
        rig.sim.world("newcomer")
        rig.cloud.offered = [parent_of("edge"), parent_of("neighbour")]
        await until(lambda: len(rig.edge.known_edges) == 2)
        enrolled = await ask(rig)
        assert [parent.zmq for parent in enrolled.parents] == ["mem://edge", "mem://neighbour"]
        assert msgspec.structs.replace(enrolled, parents=()).cloud_identity == CLOUD.public

    simulate(scenario, devices=())


def test_a_refusal_of_the_cloud_reaches_the_joiner():
    """By its own name."""

    async def scenario(rig):
        rig.sim.world("newcomer")
        with pytest.raises(errors.InviteSpent):
            await ask(rig, b"t" * 16)

    simulate(scenario, devices=())


def test_nobody_joins_while_the_cloud_is_away():
    """Only it can spend an invite; the joiner hears that, instead of nothing."""

    async def scenario(rig):
        rig.sim.world("newcomer")
        rig.sim.crash("cloud")
        await until(lambda: rig.edge.uplink.peer is None)
        with pytest.raises(errors.Unavailable, match="the cloud is away"):
            await ask(rig)
        rig.sim.restart("cloud")
        await rig.settled()
        await asyncio.sleep(0)
        assert (await ask(rig)).certificate

    simulate(scenario, devices=())


def test_one_identity_takes_no_more_than_its_share_of_the_sessions():
    """The next one is told why; others come in, and one that ends makes room."""

    async def scenario(rig):
        for number in range(3):
            rig.sim.add(f"app-{number}", Child, ("app", "client", ("edge",), None))
        await until(lambda: all(rig.here(f"app-{number}") for number in range(3)))
        rig.sim.add("app-3", Child, ("app", "client", ("edge",), None))
        await until(lambda: b"app has 3 sessions already" in rig.sim.log_bytes())
        rig.sim.add("other", Child, ("other", "client", ("edge",), None))
        await until(lambda: rig.here("other"))
        assert not rig.here("app-3")
        assert all(rig.here(f"app-{number}") for number in range(3))
        rig.sim.crash("app-1")
        await until(lambda: rig.here("app-3"))

    simulate(scenario, client_sessions=3)
