"""Invites are spent here, once; certificates are checked here, each time."""

from __future__ import annotations

import asyncio
import random

import pytest

from msrt import errors
from msrt.journal.facts import InviteIssued, NodeRevoked
from msrt.journal.writer import Writer
from msrt.links.broker_files import password_matches
from msrt.protocol.messages import Enrol, Hello, Parent
from msrt.trust.certificate import Certificate, check_certificate, issue, prove
from msrt.trust.invite import Invite
from msrt.world.simulation import WALL_START, Simulation
from msrt_cloud.gate import CloudGate
from tests.runtime.hop.tree import CLOUD, identity
from tests.runtime.journal.rig import open_log

HOUR = 3600.0
ROOT = b"r" * 32
PARENTS = (Parent("p" * 26, region="north"),)


class Door:
    """A gate over a journal of its own."""

    def __init__(self, world):
        self.world = world
        log = open_log(world.disk, sign=lambda data: CLOUD.sign(data, "journal"))
        self.writer = Writer(log, world.offload)
        self.gate = CloudGate(world, CLOUD, self.writer, lambda _certificate: PARENTS, ROOT)
        self.random = random.Random(5)

    async def invite(self, role="device", region="north", ttl=HOUR, **labels):
        one = Invite.make(
            CLOUD, self.random.randbytes, role=role, parents=PARENTS, expires=WALL_START + ttl, region=region,
            labels=labels,
        )  # fmt: skip
        record = one.record
        await self.writer.append(
            InviteIssued(record.id, role, record.secret_hash, record.expires, region, labels, "operator")
        )
        return one

    async def enrol(self, spent, who, name=None, **changes):
        """The certificate that this node gets."""
        one = identity(who)
        fields = {
            "invite": spent.id, "secret": spent.secret, "identity": one.public, "link_key": one.link_public,
            "proof": prove(one, spent.id), "name": name or who,
        }  # fmt: skip
        self.answer = await self.gate.enrol(Enrol(**(fields | changes)), b"")
        return check_certificate(self.answer.certificate, CLOUD.public)

    def hello(self, who, role="edge", node=None, **more):
        one = identity(who)
        certificate = Certificate(
            node=one.node, role=role, name=who, identity=one.public, link_key=one.link_public, serial=1, **more
        )
        return Hello(node or one.node, 1, issue(CLOUD, certificate))

    def written(self):
        return self.writer.log.offset


def at_the_door(scenario):
    with Simulation(1) as sim:
        sim.run(scenario(Door(sim.world("cloud"))), until=60)


def test_an_invite_makes_a_member():
    """Role, region and labels are the invite's, keys and name the node's; it hears where to go, and the first root."""

    async def scenario(door):
        made = await door.enrol(await door.invite(site="a"), "camera")
        one = identity("camera")
        assert (made.role, made.region, made.labels, made.name) == ("device", "north", {"site": "a"}, "camera")
        assert (made.node, made.link_key) == (one.node, one.link_public)
        assert door.answer.parents == PARENTS
        assert made.root == ROOT
        state = door.writer.state
        assert state.nodes[one.node].enrolled.serial == made.serial == 1

    at_the_door(scenario)


def test_a_device_gets_a_password_and_its_invites_account_ends():
    """Its MQTT account is in the journal as a salted hash, and the password in the answer alone; others get none."""

    async def scenario(door):
        invite = await door.invite()
        made = await door.enrol(invite, "camera")
        assert len(door.answer.mqtt_password) >= 32
        assert door.writer.state.accounts.keys() == {made.node}
        assert door.answer.mqtt_password not in door.writer.state.accounts[made.node]
        await door.enrol(await door.invite("client", ""), "laptop")
        assert door.answer.mqtt_password == ""
        assert door.writer.state.accounts.keys() == {made.node}

    at_the_door(scenario)


def test_whoever_asks_twice_gets_one_password():
    """Its first answer may come after the second was given, and what it holds must open the broker."""

    async def scenario(door):
        invite = await door.invite()
        made = await door.enrol(invite, "camera")
        first = door.answer.mqtt_password
        await door.enrol(invite, "camera")
        assert door.answer.mqtt_password == first
        assert password_matches(door.writer.state.accounts[made.node], first)
        await door.enrol(await door.invite(), "other")
        assert door.answer.mqtt_password != first

    at_the_door(scenario)


def test_an_invite_is_spent_once_and_its_spender_may_ask_again():
    """An answer lost on the way costs nobody an invite; anybody else is refused."""

    async def scenario(door):
        invite = await door.invite()
        first = await door.enrol(invite, "camera")
        assert await door.enrol(invite, "camera") == first
        with pytest.raises(errors.InviteSpent):
            await door.enrol(invite, "thief")
        assert len(door.writer.state.nodes) == 1

    at_the_door(scenario)


def test_two_who_come_at_once_with_one_invite_are_one():
    """It is decided in the journal: the second sees what the first did."""

    async def scenario(door):
        invite = await door.invite()
        found = await asyncio.gather(
            *(door.enrol(invite, who) for who in ("camera", "thief", "other")), return_exceptions=True
        )
        assert sum(isinstance(one, Certificate) for one in found) == 1
        assert sum(isinstance(one, errors.InviteSpent) for one in found) == 2

    at_the_door(scenario)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"secret": b"x" * 16}, errors.InviteForged),
        ({"invite": "nosuchinvite"}, errors.BadSignature),
        ({"proof": b"x" * 64}, errors.BadSignature),
        ({"link_key": b"x" * 32}, errors.BadSignature),
        ({"name": "no name!"}, errors.InvalidAddress),
    ],
)
def test_a_forged_enrolment_writes_nothing(changes, error):
    """Wrong secret, wrong proof, a key that is not the asker's, a name that is none."""

    async def scenario(door):
        invite = await door.invite()
        before = door.written()
        with pytest.raises(error):
            await door.enrol(invite, "camera", **changes)
        assert door.written() == before

    at_the_door(scenario)


def test_an_expired_invite_lets_nobody_in():
    """The cloud's clock decides."""

    async def scenario(door):
        invite = await door.invite(ttl=5.0)
        await asyncio.sleep(6)
        with pytest.raises(errors.InviteExpired):
            await door.enrol(invite, "camera")

    at_the_door(scenario)


def test_two_of_a_role_do_not_share_a_name():
    """The second is told to choose; a device may be named as an edge is, and a removed node's name is free."""

    async def scenario(door):
        first = await door.enrol(await door.invite(), "camera")
        again = await door.invite()
        with pytest.raises(errors.Conflict, match="--name"):
            await door.enrol(again, "other", name="camera")
        await door.enrol(await door.invite("edge"), "edge", name="camera")
        await door.writer.append(NodeRevoked(first.node, first.serial))
        assert (await door.enrol(again, "other", name="camera")).serial == 3

    at_the_door(scenario)


def test_a_removed_node_comes_back_only_with_a_new_invite():
    """The invite it once spent gives it nothing, no account at a broker either."""

    async def scenario(door):
        invite = await door.invite()
        made = await door.enrol(invite, "camera")
        await door.writer.append(NodeRevoked(made.node, made.serial))
        before = door.written()
        with pytest.raises(errors.Revoked):
            await door.enrol(invite, "camera")
        assert door.written() == before
        assert (await door.enrol(await door.invite(), "camera")).serial > made.serial

    at_the_door(scenario)


@pytest.mark.parametrize("role", ["edge", "client", "operator"])
def test_a_member_with_its_own_key_is_let_in(role):
    """By its certificate alone: nothing is written."""

    async def scenario(door):
        found = door.gate.admit(door.hello("one", role), identity("one").link_public)
        assert (found.name, found.role) == ("one", role)
        assert door.written() == 0

    at_the_door(scenario)


def test_who_is_not_who_it_says_is_kept_out():
    """Another's link key, another's node id, another cloud's signature, no certificate, a device, a removed node."""

    async def scenario(door):
        admit, key = door.gate.admit, identity("one").link_public
        with pytest.raises(errors.NotEnrolled, match="another key"):
            admit(door.hello("one"), identity("two").link_public)
        with pytest.raises(errors.NotEnrolled, match="not of"):
            admit(door.hello("one", node=identity("two").node), key)
        with pytest.raises(errors.Forbidden, match="joins an edge"):
            admit(door.hello("one", "device"), key)
        with pytest.raises(errors.NotEnrolled):
            admit(Hello(identity("one").node, 1, b""), key)
        hello = door.hello("one")
        with pytest.raises(errors.BadSignature):
            admit(Hello(hello.node, 1, hello.certificate[:-1] + b"x"), key)
        await door.writer.append(NodeRevoked(identity("one").node, 1))
        with pytest.raises(errors.Revoked):
            admit(hello, key)

    at_the_door(scenario)


@pytest.mark.parametrize("params", [{}, {"invite": 3}, {"invite": "a", "secret": "not bytes"}])
def test_a_malformed_relayed_enrolment_is_the_callers_fault(params):
    """An edge of another version is told what is wrong with its words."""

    async def scenario(door):
        with pytest.raises(errors.CallerError, match="malformed enrolment"):
            door.gate.as_call(params)

    at_the_door(scenario)
