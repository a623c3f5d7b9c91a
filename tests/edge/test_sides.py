"""The two faces of an edge: what each of its neighbours may say to it, and what becomes of it."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from msrt import errors
from msrt.protocol.messages import Infer, Load, RoundOpen
from tests.edge.rig import X, event, simulate, until


def test_a_device_and_a_client_may_ask_what_is_theirs():
    """Neighbours, models and what a model takes; bytes of an artifact come through the edge."""

    async def scenario(rig):
        await rig.serve()
        assert await rig.c.peer.call("models") == ["net"]
        assert (await rig.c.peer.call("metadata", {"model": "net"}))["versions"] == [1]
        [edge] = await rig.c.peer.call("edges")
        assert edge["zmq"] == "mem://edge"

    simulate(scenario, clients=("c",))


@pytest.mark.parametrize(
    ("method", "params", "error"),
    [
        ("metadata", {}, errors.CallerError),
        ("metadata", {"model": "net", "version": "one"}, errors.CallerError),
        ("metadata", {"model": "nothing"}, errors.NotFound),
        ("ping", {}, errors.NotFound),
        ("node.remove", {"node": "x"}, errors.Forbidden),
    ],
)
def test_a_call_that_cannot_be_answered_gets_its_reason(method, params, error):
    """By its type, and the session goes on."""

    async def scenario(rig):
        with pytest.raises(error):
            await rig.c.peer.call(method, params)
        assert await rig.c.peer.call("models") == []

    simulate(scenario, clients=("c",))


def test_what_a_role_may_not_say_is_not_heard():
    """A device asks for no inference, a client reports no models; both are counted, neither is sent away."""

    async def scenario(rig):
        await rig.serve("d1")
        before = rig.edge.refused
        rig.d1.peer.send(Infer((1,), (1,), "net", (X,)), (bytes(16),))
        rig.c.report(("net", 1))
        await until(lambda: rig.edge.refused == before + 2)
        await asyncio.sleep(1)
        assert not rig.d1.told(Infer)
        assert rig.d1.live
        assert rig.c.live

    simulate(scenario, clients=("c",))


def test_a_client_sends_no_stream():
    """Updates are of devices."""

    async def scenario(rig):
        with pytest.raises(errors.Forbidden, match="may not send a stream"):
            await rig.c.peer.push("update", {}, b"", size=0, digest=hashlib.sha256(b"").hexdigest())

    simulate(scenario, clients=("c",))


def test_numbers_of_a_device_are_kept_for_the_cloud():
    """The last ones it said."""

    async def scenario(rig):
        rig.d1.peer.send(Load({"queue": 3.0}))
        await until(lambda: rig.seen("d1").values == {"queue": 3.0})

    simulate(scenario)


def test_the_cloud_asks_devices_and_the_edge_itself():
    """Logs and diagnosis, of one device by its node id; one that is away is named so."""

    async def scenario(rig):
        peer = rig.cloud.peer
        assert await peer.call("node.logs", {"node": rig.d1.node, "lines": 5}) == ["a line"]
        [(method, params)] = rig.d1.asked
        assert (method, params["lines"]) == ("logs", 5)
        assert "node" not in params
        assert await peer.call("node.logs", {"node": rig.edge.node}) == []
        found = await peer.call("node.diagnose", {"node": rig.edge.node})
        assert {"queue", "events_waiting", "artifacts_corrupt"} <= found.keys()
        with pytest.raises(errors.Unavailable, match="not here"):
            await peer.call("node.logs", {"node": "nobody"})
        for method, params in (("node.remove", {"node": "x"}), ("node.logs", {}), ("models", {})):
            with pytest.raises(errors.NotFound):
                await peer.call(method, params)

    simulate(scenario)


def test_the_cloud_sends_no_stream_but_snapshots_and_no_events():
    """And what it says out of place ends nothing."""

    async def scenario(rig):
        with pytest.raises(errors.Forbidden, match="takes no stream"):
            await rig.cloud.peer.push("artifact", {}, b"", size=0, digest=hashlib.sha256(b"").hexdigest())
        rig.cloud.say(Load({}))
        rig.cloud.say(RoundOpen("job", 1, "b" * 64, b"s", "0" * 64, 5.0))
        await until(lambda: b"edge.unexpected_message" in rig.sim.log_bytes())
        rig.cloud.peer.send(event("d1", 1))
        await until(lambda: rig.edge.uplink.peer is None)
        await rig.settled()
        assert rig.edge.events.received == 0

    simulate(scenario, devices=())
