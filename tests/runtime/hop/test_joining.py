"""Sessions begin, break, resume, move and end as they should."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from msrt import errors
from msrt.hop import Uplink
from msrt.hop.uplink import RESUME_S, enrol
from msrt.links.link import Credentials
from msrt.protocol import wire
from msrt.protocol.messages import Assign, Bye, Enrol, Heartbeat, Hello, Load
from msrt.world.network import Faults
from tests.runtime.hop.tree import CLOUD, LEASE_S, certificate, identity, parent_of, simulate, until


class Quiet:
    """A handler that needs to hear nothing."""

    def joined(self, peer): ...

    def left(self, peer, error, *, final): ...


class Ear:
    """Hears as a bare link does."""

    def __init__(self):
        self.packets = []

    def received(self, _route, _principal, frames):
        self.packets.append(type(wire.decode(frames, 1 << 20).message).__name__)

    def gone(self, route, error): ...

    def writable(self): ...


def test_a_child_joins_and_both_sides_say_so():
    """After a welcome each side has one peer, the parent with the child's certificate."""

    async def scenario(tree):
        assert tree.p.peer.name == "c"
        assert tree.p.peer.role == "device"
        assert tree.c.up.peer.node == tree.p.identity.node
        assert len(tree.p.handler.joins) == len(tree.c.handler.joins) == 1

    simulate(scenario)


def test_messages_go_both_ways():
    """A transient message arrives with its frames, in either direction."""

    async def scenario(tree):
        tree.c.up.peer.send(Load({"a": 1.0}), [b"frame"])
        tree.p.peer.send(Load({"b": 2.0}))
        await asyncio.sleep(0.1)
        assert tree.p.handler.heard == [(Load({"a": 1.0}), [b"frame"])]
        assert tree.c.handler.heard == [(Load({"b": 2.0}), [])]

    simulate(scenario)


def test_a_short_cut_is_resumed():
    """When the connection breaks within the lease, the session goes on: left not final, joined again, same peer."""

    async def scenario(tree):
        first = tree.c.up.peer
        tree.p.down.links[0].drop(tree.p.peer.route)
        await until(lambda: len(tree.c.handler.joins) == 2)
        assert tree.c.up.peer is first
        assert [(str(why), final) for _, why, final in tree.c.handler.lefts] == [("its link was lost", False)]
        assert (await first.call("echo", {"x": 1})) == {"x": 1}

    simulate(scenario)


def test_a_partition_longer_than_the_lease_ends_the_session():
    """After the lease the parent gives the child up for good, and the child comes back with a new session."""

    async def scenario(tree):
        old = tree.p.peer
        tree.sim.partition("p", "c")
        await asyncio.sleep(LEASE_S + 1)
        assert tree.p.down.peers == {}
        assert [str(why) for _, why, final in tree.p.handler.lefts if final] == [
            f"nothing was heard for the lease of {LEASE_S:g} s"
        ]
        tree.sim.heal()
        await until(lambda: tree.p.down.peers and tree.c.up.peer and tree.c.up.peer.live)
        assert tree.p.peer is not old
        assert tree.c.handler.lefts[-1][2] is True

    simulate(scenario)


def test_a_restarted_parent_gets_its_child_back():
    """The handler of the child hears that the first session is over before it hears of the second."""

    async def scenario(tree):
        tree.sim.crash("p")
        await asyncio.sleep(0.3)
        tree.sim.restart("p")
        await until(lambda: len(tree.c.handler.joins) == 2)
        assert tree.c.handler.lefts[-1][2] is True
        assert (await tree.c.up.call("echo", {"x": 2})) == {"x": 2}

    simulate(scenario)


def test_a_restarted_child_replaces_its_former_life():
    """The parent hears that the old session is over, then of the new one; there is one peer all the time."""

    async def scenario(tree):
        tree.sim.crash("c")
        tree.sim.restart("c")
        await until(lambda: len(tree.p.handler.joins) == 2)
        assert [final for _, _, final in tree.p.handler.lefts][-1] is True
        assert tree.p.peer.live
        await tree.joined()

    simulate(scenario)


def test_a_dead_parent_is_left_for_the_next_one():
    """With two parents and the first one dead, the child is with the second within two seconds."""

    async def scenario(tree):
        assert tree.c.up.peer.node == tree.p.identity.node
        tree.sim.crash("p")
        began = tree.sim.now
        await until(lambda: tree.c.up.peer and tree.c.up.peer.node == tree.q.identity.node)
        assert tree.sim.now - began < RESUME_S + 1
        assert tree.q.peer.previous == identity("p").node

    simulate(scenario, parents=("p", "q"))


@pytest.mark.parametrize("how", ["crash", "stop", "partition"])
def test_a_silent_parent_is_left_after_its_lease(how):
    """Nobody is told, but the lease runs out, and the next parent takes the child within three seconds of it."""

    async def scenario(tree):
        if how == "partition":
            tree.sim.partition("p", "c")
        else:
            getattr(tree.sim, how)("p")
        await until(lambda: tree.c.up.peer and tree.c.up.peer.node == tree.q.identity.node, seconds=LEASE_S + 3)

    simulate(scenario, Faults(notice=0.0), parents=("p", "q"))


def test_a_stopped_parent_that_wakes_up_is_fenced_off():
    """A parent that slept through the lease finds its child gone; what it still sends is heard by nobody."""

    async def scenario(tree):
        tree.sim.stop("p")
        await until(lambda: tree.c.up.peer and tree.c.up.peer.node == tree.q.identity.node)
        tree.sim.cont("p")
        await until(lambda: not tree.p.down.peers)
        assert tree.c.handler.heard == []
        assert tree.q.peer.live

    simulate(scenario, parents=("p", "q"))


def test_a_child_that_slept_is_told_to_say_hello_again():
    """A child with an old epoch is fenced by the parent that gave its lease away, and joins anew."""

    async def scenario(tree):
        old = tree.p.peer.session.epoch
        tree.sim.cut("c", "p")  # the parent hears nothing, the child everything
        await until(lambda: not tree.p.down.peers)
        tree.sim.heal()
        await until(lambda: tree.p.down.peers)
        await tree.joined()
        assert tree.p.peer.session.epoch > old
        assert tree.c.handler.lefts[-1][2] is True

    simulate(scenario)


def test_an_old_greeting_does_not_steal_the_route():
    """A greeting of an earlier attempt that comes late, over another connection, changes nothing."""

    async def scenario(tree):
        peer = tree.p.peer
        [sink] = tree.p.down._sinks
        late = tree.c.up.peer.session.hello
        tree.p.down._hello(sink, b"late", identity("c").link_public, msgspec.structs.replace(late, attempt=0))
        assert peer.route != b"late"
        assert b"late" not in sink.routes
        assert (await tree.c.up.call("echo", {})) == {}

    simulate(scenario)


def test_a_child_takes_the_parents_that_it_is_told():
    """The list in the welcome replaces the one the child came with, and the uplink says so."""

    async def scenario(tree):
        assert tree.c.up.parents == [parent_of("p"), parent_of("q")]

    simulate(scenario, offered=("p", "q"))


def test_a_goodbye_is_final_at_once():
    """A child that closes is gone from its parent without waiting for a lease."""

    async def scenario(tree):
        tree.c.up.close()
        await asyncio.sleep(0.1)
        assert tree.p.down.peers == {}
        [(_, why, final)] = tree.p.handler.lefts
        assert (str(why), final) == ("the peer said goodbye: stopping", True)
        [(_, why, final)] = tree.c.handler.lefts
        assert (str(why), final) == ("closed here: stopping", True), "its own side has words for it too"

    simulate(scenario)


def test_an_expelled_child_knows_why():
    """A revoked node is sent away at once, cannot come back, and waiting for a parent says why."""

    async def scenario(tree):
        node = tree.c.identity.node
        tree.p.gate.revoked.add(node)
        tree.p.down.expel(node, errors.Revoked("c was removed from the tree"))
        await until(lambda: isinstance(tree.c.up.refused, errors.Revoked))
        began = tree.sim.now
        with pytest.raises(errors.Revoked):
            await tree.c.up.wait(30)
        assert tree.sim.now - began < 5, "what is hopeless is said at once"
        assert tree.p.down.peers == {}

    simulate(scenario)


def test_a_key_of_nobody_is_refused():
    """A certificate of another node, or of another cloud, gets a typed refusal on both sides."""

    async def scenario(tree):
        world = tree.sim.world("x")
        for shown, fault in ((certificate("c"), errors.NotEnrolled), (b"x" * 200, errors.BadSignature)):
            hello = Hello(identity("x").node, 1, shown)
            credentials = Credentials(secret_key=identity("x").link_secret)
            up = Uplink(world, hello, [parent_of("p")], lambda p, c=credentials: (p.zmq, c), tree.c.handler)
            task = asyncio.get_running_loop().create_task(up.run())
            refused = tree.p.down.refused
            with pytest.raises(fault):
                await up.wait(20)
            assert tree.p.down.refused > refused
            up.close()
            await task

    simulate(scenario)


def test_a_wrong_server_key_is_told_at_once():
    """A parent that does not hold the key we expect is WrongServerKey, and not a silent wait."""

    async def scenario(tree):
        hello = Hello(identity("x").node, 1, certificate("x"))
        bad = Credentials(secret_key=identity("x").link_secret, server_key=identity("other").link_public)
        up = Uplink(tree.sim.world("x"), hello, [parent_of("p")], lambda p: (p.zmq, bad), tree.c.handler)
        task = asyncio.get_running_loop().create_task(up.run())
        with pytest.raises(errors.WrongServerKey):
            await up.wait(20)
        up.close()
        await task

    simulate(scenario)


def test_garbage_and_lies_are_counted_and_survived():
    """Bytes that are no packet, a message that the role may not say, one without a session: refused, the hop lives."""

    async def scenario(tree):
        link, peer = tree.c.up.peer.link, tree.p.peer
        link.send(b"", [b"\xff" * 50])
        link.send(b"", wire.encode(Assign(1, ()), seq=1, epoch=peer.session.epoch))
        await asyncio.sleep(0.1)
        assert tree.p.down.refused == 2
        assert tree.p.handler.heard == []
        stranger, ear = tree.sim.world("x").links.dial("mem://p", Credentials()), Ear()
        await stranger.start(ear)
        await asyncio.sleep(0.1)
        stranger.send(b"", wire.encode(Heartbeat()))
        stranger.send(b"", wire.encode(Bye()))
        await asyncio.sleep(0.1)
        assert ear.packets == ["Fence", "Fence"]
        assert peer.live

    simulate(scenario)


def test_an_invite_is_spent_once_the_parent_answers():
    """Enrolment works with packets lost, is answered with the certificate, and a refusal arrives as its own error."""

    async def scenario(tree):
        tree.sim.weather(Faults(loss=0.3))
        one = identity("joiner")
        request = Enrol("i", b"s" * 16, one.public, one.link_public, b"", "joiner")
        credentials = Credentials(secret_key=one.link_secret, server_key=tree.p.identity.link_public)
        enrolled = await enrol(tree.sim.world("x"), "mem://p", credentials, request, 30)
        assert enrolled.cloud_identity == CLOUD.public
        spent = Enrol("i", b"t" * 16, one.public, one.link_public, b"", "joiner")
        with pytest.raises(errors.InviteSpent, match="used before"):
            await enrol(tree.sim.world("x"), "mem://p", credentials, spent, 30)
        tree.sim.crash("p")
        with pytest.raises((errors.DeadlineExceeded, errors.Disconnected)):
            await enrol(tree.sim.world("x"), "mem://p", credentials, request, 3)

    simulate(scenario)


def test_one_operator_may_have_many_processes():
    """Commands that run beside each other under one identity do not end each other's sessions; removed, all end."""

    async def scenario(tree):
        ups, loop = [], asyncio.get_running_loop()
        credentials = Credentials(secret_key=identity("op").link_secret)
        for boot in (1, 2):
            hello = Hello(identity("op").node, boot, certificate("op", "operator"))
            up = Uplink(tree.sim.world(f"x{boot}"), hello, [parent_of("p")], lambda p: (p.zmq, credentials), Quiet())
            ups.append((up, loop.create_task(up.run())))
        for _ in range(20):
            for up, _task in ups:
                assert await up.call("echo", {"x": 1}) == {"x": 1}
            await asyncio.sleep(0.2)
        assert len(tree.p.down.peers) == 3
        tree.p.gate.revoked.add(identity("op").node)
        tree.p.down.expel(identity("op").node, errors.Revoked("removed"))
        await until(lambda: len(tree.p.down.peers) == 1)
        for up, task in ups:
            up.close()
            await task

    simulate(scenario)


def test_closing_takes_no_time():
    """`run` returns as soon as the goodbye is said, however short the session was."""

    async def scenario(tree):
        hello = Hello(identity("x").node, 1, certificate("x"))
        credentials = Credentials(secret_key=identity("x").link_secret)
        up = Uplink(tree.sim.world("x"), hello, [parent_of("p")], lambda p: (p.zmq, credentials), Quiet())
        task = asyncio.get_running_loop().create_task(up.run())
        await up.wait(5)
        began = tree.sim.now
        up.close()
        await task
        assert tree.sim.now - began < 0.05

    simulate(scenario)
