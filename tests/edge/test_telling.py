"""What the cloud hears of an edge with very many devices: all of it, in small parts, at a bounded rate."""

from __future__ import annotations

import msgspec
import pytest

from msrt.hop import Peer
from msrt.protocol import wire
from msrt.protocol.messages import DeviceRecord, ModelState, Parent
from msrt.trust.certificate import Certificate
from msrt_cloud.fleet import Fleet
from msrt_edge.master import REPORT_GAP_S, REPORT_S
from msrt_edge.telling import PART_BYTES, Telling, report
from tests.runtime.hop.tree import identity

MANY = 4000


def record(number, **change):
    """A device as they are: two models, labels, numbers."""
    models = tuple(ModelState(f"model-{n}", 3, "int8", "ready", "", True, {"int8": 310}, 5000) for n in range(2))
    made = DeviceRecord(
        f"{number:026d}", f"camera-{number}", True, "aarch64-small-cpu", {"site": "hall-3", "line": "7"}, models,
        "zmq", {"cpu": 0.35, "memory": 61.0, "queue": 0.0}, {"door": "running"},
    )  # fmt: skip
    return msgspec.structs.replace(made, **change)


class House:
    """An edge's devices, and a cloud that hears of them; each packet is encoded and read again as on a wire."""

    def __init__(self, count):
        self.devices = {one.node: one for one in map(record, range(count))}
        self.telling = Telling(self.devices.get)
        self.cloud, self.peer = Fleet(), Peer.__new__(Peer)
        one = identity("edge")
        self.peer.node, self.peer.address = one.node, Parent(one.node)
        self.peer.certificate = Certificate(
            node=one.node, role="edge", name="edge", identity=one.public, link_key=one.link_public, region="north"
        )
        self.cloud.joined(self.peer, 0.0)
        self.sent, self.about = [], set()

    def change(self, node, **change):
        self.devices[node] = msgspec.structs.replace(self.devices[node], **change)
        self.telling.changed[node] = None

    def say(self, part):
        if part is None:
            return
        message = report(part, {"global": 9}, {"queue": 1.0})
        [packet] = wire.encode(message)
        self.sent.append(len(packet))
        self.about = self.cloud.report(self.peer.node, wire.decode([packet], wire.ZMQ_LIMIT).message)
        self.telling.sent(part)

    def sweep(self):
        """From its first part to its last."""
        parts = 0
        while True:
            part = self.telling.of_sweep(self.devices)
            self.say(part)
            parts += 1
            if part.last:
                return parts

    @property
    def known(self):
        return self.cloud.edges[self.peer.node].devices


def test_four_thousand_devices_cost_a_bounded_rate():
    """No packet is near the limit, the cloud knows everybody in seconds, and a device costs a few bytes a second."""
    house = House(MANY)
    parts = house.sweep()
    assert house.known == house.devices
    assert house.cloud.heard() == {house.peer.node}
    assert parts * REPORT_GAP_S < 5
    assert max(house.sent) < PART_BYTES + wire.HEADER_ROOM < wire.HEADER_LIMIT / 4

    house.sent.clear()
    rounds = int(60 / REPORT_GAP_S)
    nodes = list(house.devices)
    for turn in range(rounds):  # a minute: everybody's numbers change every two seconds, ten devices a second fail
        for node in nodes[turn % 20 :: 20]:
            load = {"cpu": turn / rounds, "memory": 61.0, "queue": 0.0}
            answered = tuple(msgspec.structs.replace(m, requests=m.requests + 9) for m in house.devices[node].models)
            house.change(node, values=load, models=answered)
        house.change(nodes[(turn * 37) % MANY], alive=bool(turn % 3))
        house.say(house.telling.of_changes())
        if turn % round(REPORT_S / REPORT_GAP_S) == 0:
            house.say(house.telling.of_sweep(house.devices))
    per_device = sum(house.sent) / 60 / MANY
    assert per_device < 12, f"{per_device:.1f} bytes a device and second"
    assert [n for n in nodes if house.known[n].alive != house.devices[n].alive] == []


def test_a_change_that_matters_is_said_at_once_and_numbers_wait_for_the_sweep():
    """A failure, a state, being away: soon. Load and answers: with the sweep."""
    house = House(3)
    house.sweep()
    first, second, third = house.devices
    model = house.devices[first].models[0]
    house.change(first, values={"cpu": 1.0})
    house.change(second, models=(msgspec.structs.replace(model, requests=99, latency_us={"int8": 1}),))
    house.change(third, models=(msgspec.structs.replace(model, failures=1),))
    house.say(house.telling.of_changes())
    assert house.about == {second, third}, "the second lost a model as well"
    house.change(second, models=(msgspec.structs.replace(model, requests=100),))
    assert house.telling.of_changes() is None
    assert house.known[first].values == {"cpu": 0.35, "memory": 61.0, "queue": 0.0}
    house.sweep()
    assert house.known == house.devices


def test_who_is_gone_is_dropped_at_the_end_of_a_sweep_and_who_came_meanwhile_is_not():
    """The sweep began without it, a change named it."""
    house = House(400)
    house.sweep()
    part = house.telling.of_sweep(house.devices)
    assert not part.last
    house.say(part)
    fresh = record(7777)
    house.devices[fresh.node] = fresh
    house.change(fresh.node)
    house.say(house.telling.of_changes())
    del house.devices[record(399).node]
    house.sweep()
    assert house.known.keys() == house.devices.keys()
    assert house.cloud.home(fresh.node).name == "edge"
    assert house.cloud.home(record(399).node) is None


def test_a_sweep_that_was_cut_off_drops_nobody():
    """The session ended between its parts; the next one begins anew, and only its end counts."""
    house = House(400)
    house.sweep()
    house.say(house.telling.of_sweep(house.devices))
    house.cloud.joined(house.peer, 1.0)
    assert house.cloud.heard() == set()
    house.say(house.telling.of_sweep(house.devices))  # the edge has not noticed yet
    assert house.known.keys() == house.devices.keys()
    assert house.cloud.heard() == set()
    house.telling.restart()
    assert house.sweep() > 1
    assert house.cloud.heard() == {house.peer.node}


def test_a_part_that_could_not_be_sent_is_said_again():
    """Nothing is settled before the session took it."""
    house = House(400)
    house.sweep()
    node = next(iter(house.devices))
    house.change(node, alive=False)
    assert house.telling.of_changes() == house.telling.of_changes() != None  # noqa: E711 - both, and something
    assert house.telling.of_sweep(house.devices) == house.telling.of_sweep(house.devices)
    house.say(house.telling.of_changes())
    assert not house.known[node].alive


@pytest.mark.parametrize("size", [100 << 10, 500 << 10])
def test_one_enormous_record_holds_up_nobody(size):
    """It travels alone, and without what makes it enormous if no header holds it."""
    house = House(5)
    node = record(2).node
    house.devices[node] = record(2, sources={"door": "x" * size})
    house.sweep()
    assert house.known.keys() == house.devices.keys()
    assert (house.known[node] == house.devices[node]) == (size < wire.HEADER_LIMIT / 2)
    assert max(house.sent) < wire.HEADER_LIMIT
