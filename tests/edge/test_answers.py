"""Answers that one device gave together and one client's link cannot carry together."""

from __future__ import annotations

import msgspec

from msrt.links.link import Credentials
from msrt.protocol.messages import InferFailed, Inferred, TensorSpec
from tests.edge.rig import Child, identity, simulate, until
from tests.edge.test_requests import rides
from tests.runtime.hop.tree import parent_of

LIMIT = 256 << 10
WIDE = 2000


def wide(child, peer, asked):
    """Eight thousand bytes a row: what no client of a narrow link asked to get at once."""
    rows = sum(asked.rows)
    outputs = (TensorSpec("y", "FP32", (rows, WIDE)),)
    data = b"".join(number.to_bytes(4, "little") * WIDE for number in range(rows))
    peer.send(Inferred(asked.ids, asked.rows, asked.model, 1, "fp32", child.name, outputs), (data,))


async def narrow(rig):
    """A client on a second listener of the edge, with MQTT's limit; the edge's devices have ZeroMQ's."""
    await rig.serve("d1")
    rig.d1.answers = wide
    credentials = Credentials(secret_key=identity("edge").link_secret)
    links = rig.sim.world("edge").links
    await rig.edge.downlink.listen(links.listen(f"mem://edge/narrow?limit={LIMIT}", credentials, lambda _key: True))

    def client(world, config):
        made = Child(world, config)
        where = msgspec.structs.replace(parent_of("edge"), zmq=f"mem://edge/narrow?limit={LIMIT}")
        made.uplink.parents = (where,)
        return made

    rig.sim.add("n", client, ("n", "client", ("edge",), None))
    await until(lambda: rig.n is not None and rig.n.live and rig.n.peer.limit == LIMIT)


def test_answers_that_fit_no_message_together_come_in_several():
    """Each once, each with its own rows."""

    async def scenario(rig):
        await narrow(rig)
        message, frames = rides(*[4] * 12)
        rig.n.peer.send(message, frames)
        await until(lambda: sum(len(told.ids) for told in rig.n.told(Inferred)) == 12)
        heard = [(told, found) for told, found in rig.n.heard if isinstance(told, Inferred)]
        assert len(heard) > 1
        assert sorted(ident for told, _ in heard for ident in told.ids) == list(message.ids)
        for told, [found] in heard:
            assert len(found) == 4 * WIDE * told.outputs[0].shape[0] < LIMIT
            assert told.outputs[0].shape == (sum(told.rows), WIDE)
        assert rig.edge.dispatcher.open_requests == 0

    simulate(scenario)


def test_an_answer_that_fits_no_message_is_an_error_of_its_own():
    """The others of its batch are answered; the client hears how large it would have been."""

    async def scenario(rig):
        await narrow(rig)
        message, frames = rides(2, 40, 2)
        rig.n.peer.send(message, frames)
        await until(lambda: rig.n.told(InferFailed) and sum(len(told.ids) for told in rig.n.told(Inferred)) == 2)
        [failed] = rig.n.told(InferFailed)
        assert (failed.ids, failed.code) == ((2,), "frame_too_large")
        assert "fewer rows" in failed.hint
        assert rig.n.live

    simulate(scenario)
