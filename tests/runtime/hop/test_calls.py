"""A call has one answer, whatever happens to the hop meanwhile."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from structlog.testing import capture_logs

from msrt import errors
from msrt.hop import calls
from msrt.protocol import wire
from msrt.protocol.messages import DeviceReport, Load, Return
from msrt.world.network import Faults
from tests.runtime.hop.tree import LEASE_S, blob, simulate, until


def fill(peer):
    """More than a link and its backlog take."""
    for _ in range(100):
        peer.send(Load({}), [bytes(1 << 18)])


def test_both_sides_may_call():
    """Parameters go out, a result comes back, either way."""

    async def scenario(tree):
        assert await tree.c.up.call("echo", {"a": [1, "x", None]}) == {"a": [1, "x", None]}
        assert await tree.p.peer.call("echo", {"b": {"c": 1.5}}) == {"b": {"c": 1.5}}

    simulate(scenario)


def test_who_leaves_with_the_answer_has_lost_nothing():
    """A caller that closes as soon as it is answered is no reason for a line in the parent's log."""

    async def scenario(tree):
        with capture_logs() as lines:
            await tree.c.up.call("echo", {})
            tree.c.up.close()
            await until(lambda: not tree.p.down.peers)
        assert [line for line in lines if line["event"] == "hop.messages_lost"] == []

    simulate(scenario)


def test_an_error_keeps_its_type_text_and_hint():
    """What the answerer raises is raised by the caller; a bug there is an error that names it, and no silence."""

    async def scenario(tree):
        with pytest.raises(errors.NotFound, match="no method nonsense") as found:
            await tree.c.up.call("nonsense")
        assert found.value.hint == "look again"
        with pytest.raises(errors.MsrtError, match="bug failed: KeyError"):
            await tree.c.up.call("bug")

    simulate(scenario)


@pytest.mark.parametrize("size", [100_000, 600 << 10, 3 << 20])
@pytest.mark.parametrize("cut", [False, True])
def test_an_answer_comes_whole_whatever_its_size(size, cut):
    """One that fits no packet comes as a stream, over a cut as well; who asked sees no difference."""

    async def scenario(tree):
        call = asyncio.get_running_loop().create_task(tree.c.up.call("huge", {"size": size}))
        if cut:
            await asyncio.sleep(0.003)
            tree.p.down.links[0].drop(tree.p.peer.route)
        assert await call == "x" * size
        assert await tree.c.up.call("echo", {}) == {}
        assert tree.p.handler.asked == 2

    simulate(scenario)


def test_an_answer_over_the_bound_is_an_error(monkeypatch):
    """The caller hears that the answer cannot be sent, and the session goes on; a question has to fit a packet."""
    monkeypatch.setattr(calls, "LONGEST", 1 << 20)

    async def scenario(tree):
        with pytest.raises(errors.MsrtError, match=r"cannot be sent.*answer"):
            await tree.c.up.call("huge", {"size": 2 << 20})
        with pytest.raises(errors.FrameTooLarge):
            await tree.c.up.call("echo", {"x": "x" * (600 << 10)})
        assert await tree.c.up.call("echo", {}) == {}

    simulate(scenario)


def test_a_long_answer_that_nobody_waits_for_is_refused():
    """Its sender is told so, and the tier never hears of it."""

    async def scenario(tree):
        data, digest = blob(100_000)
        with pytest.raises(errors.StreamCancelled, match="nobody waits for that answer"):
            await tree.p.peer.push("answer", {}, data, size=len(data), digest=digest, answers=77)
        assert not tree.c.handler.sinks

    simulate(scenario)


@pytest.mark.parametrize("fault", ["no msgpack", "another digest", "too large"])
def test_a_long_answer_that_is_none_fails_the_call(fault):
    """The call ends with the reason at once, and not at its deadline."""

    async def scenario(tree):
        call = asyncio.get_running_loop().create_task(tree.c.up.call("slow", {"seconds": 30}, 40))
        await asyncio.sleep(0.1)
        data, digest = blob(100_000)
        data = b"\xc1" + data[1:] if fault == "no msgpack" else data
        digest = hashlib.sha256(data).hexdigest() if fault == "no msgpack" else digest[::-1]
        size = 1 << 30 if fault == "too large" else len(data)
        with pytest.raises(errors.MsrtError):
            await tree.p.peer.push("answer", {}, data, size=size, digest=digest, answers=1)
        if fault != "too large":  # that one is not begun
            with pytest.raises((errors.MalformedFrame, errors.Corrupt)):
                await call
        else:
            call.cancel()
        assert await tree.c.up.call("echo", {}) == {}

    simulate(scenario)


def test_no_answer_in_time_is_deadline_exceeded():
    """The caller waits as long as it said, the answerer's work is ended too."""

    async def scenario(tree):
        began = tree.sim.now
        with pytest.raises(errors.DeadlineExceeded):
            await tree.c.up.call("slow", {"seconds": 60}, 2.0)
        assert tree.sim.now - began == pytest.approx(2.0, abs=0.1)

    simulate(scenario)


def test_a_call_survives_a_short_cut():
    """The connection breaks and comes back while the answer is made: it arrives, and the method ran once."""

    async def scenario(tree):
        call = asyncio.get_running_loop().create_task(tree.c.up.call("slow", {"seconds": 1.0}))
        await asyncio.sleep(0.2)
        tree.p.down.links[0].drop(tree.p.peer.route)
        assert await call == "slept"
        assert tree.p.handler.asked == 1

    simulate(scenario)


def test_a_call_to_a_peer_that_dies_fails_as_disconnected():
    """Nobody waits for an answer of a session that is void."""

    async def scenario(tree):
        call = asyncio.get_running_loop().create_task(tree.p.peer.call("slow", {"seconds": 30}, 60))
        await asyncio.sleep(0.1)
        tree.sim.crash("c")
        with pytest.raises(errors.Disconnected):
            await call
        assert tree.sim.now < LEASE_S + 2

    simulate(scenario)


def test_an_answer_of_an_old_session_reaches_no_new_call():
    """A child restarts while its call is at work: its next call, of the same number, gets its own answer."""

    async def scenario(tree):
        tree.sim.spawn("c", tree.c.up.call("slow", {"seconds": 1.0}, 20))
        await asyncio.sleep(0.1)
        tree.sim.crash("c")
        tree.sim.restart("c")
        await until(lambda: len(tree.p.handler.joins) == 2)
        await tree.joined()
        assert await tree.c.up.call("slow", {"seconds": 3.0}, 20) == "slept"
        assert tree.sim.now > 3.0

    simulate(scenario)


def test_calling_waits_for_a_parent():
    """A call made while the parent is away goes out when it is back; without one it fails in time."""

    async def scenario(tree):
        tree.sim.crash("p")
        await until(lambda: tree.c.up.peer is None)
        with pytest.raises(errors.Disconnected):
            await tree.c.up.call("echo", {}, 1.0)
        tree.sim.restart("p")
        assert await tree.c.up.call("echo", {"x": 1}, 20.0) == {"x": 1}

    simulate(scenario)


def test_calls_are_answered_once_in_bad_weather():
    """Loss, doubling and overtaking: a hundred calls, a hundred answers, each method ran once."""

    async def scenario(tree):
        tree.sim.weather(Faults(loss=0.2, duplicate=0.2, reorder=0.2, jitter=0.02))
        calls = [tree.c.up.call("echo", {"n": n}, 60.0) for n in range(100)]
        assert await asyncio.gather(*calls) == [{"n": n} for n in range(100)]
        assert tree.p.handler.asked == 100

    simulate(scenario)


def test_an_answer_nobody_waits_for_is_dropped():
    """A late or invented Return changes nothing."""

    async def scenario(tree):
        tree.p.peer.send(Return(77, "what?"))
        assert await tree.c.up.call("echo", {}) == {}

    simulate(scenario)


def test_a_full_link_refuses_transients_and_keeps_the_rest():
    """When the link and the backlog are full, transient messages are refused; session messages arrive later, once."""

    async def scenario(tree):
        peer = tree.c.up.peer
        tree.sim.stop("p")
        with pytest.raises(errors.Overloaded):
            fill(peer)
        peer.send(DeviceReport(1, ()))
        tree.sim.cont("p")
        await until(lambda: any(isinstance(m, DeviceReport) for m, _ in tree.p.handler.heard))
        await asyncio.sleep(5)
        assert sum(isinstance(m, DeviceReport) for m, _ in tree.p.handler.heard) == 1
        assert peer.live

    simulate(scenario)


def test_what_is_too_large_to_travel_is_said_at_once():
    """A session message over the link's limit is refused before the session takes it, so nothing is stuck behind it."""

    async def scenario(tree):
        peer = tree.c.up.peer
        with pytest.raises(errors.FrameTooLarge):
            peer.send(DeviceReport(1, ()), [bytes(1 << 20)])
        with pytest.raises(errors.FrameTooLarge):
            peer.send(Load({}), [bytes(wire.ZMQ_LIMIT)])
        assert await peer.call("echo", {"x": 1}) == {"x": 1}

    simulate(scenario)
