"""The session table: what each delivery class promises under loss, duplication, reordering, reconnects, restarts."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt import errors
from msrt.protocol import channel
from msrt.protocol import session as s
from msrt.protocol.messages import Call, DeliveryClass, Event, Hello, Load, Message, Welcome

LEASE = 1.5


@dataclass
class Packet:
    """What the session reads of a decoded packet."""

    message: Message
    seq: int
    epoch: int
    ack_session: int
    ack_durable: int
    frames: tuple[bytes, ...] = ()
    size: int = 0

    @property
    def delivery(self) -> int:
        return int(self.message.delivery)


@dataclass
class End:
    """One process's end: its session, what it put on the wire, what the application saw."""

    session: s.Session
    got: list[Message] = field(default_factory=list)
    persisted: list[Message] = field(default_factory=list)
    lost: list[Message] = field(default_factory=list)
    wire: list[Packet] = field(default_factory=list)
    joins: int = 0

    def do(self, actions: list[s.Action], now: float) -> None:
        for action in actions:
            match action:
                case s.Transmit(message, _, seq):
                    one = self.session
                    self.wire.append(Packet(message, seq, one.epoch, one.ack_session, one.ack_durable))
                case s.Deliver(message, _):
                    self.got.append(message)
                case s.Persist(message, _, seq):
                    self.persisted.append(message)
                    self.session.persisted(seq, now)
                case s.Joined(_, lost):
                    self.joins += 1
                    self.lost += lost
                case s.Over(_, lost):
                    self.lost += lost


class Hop:
    """A child and a parent over a wire that a test may torment."""

    def __init__(self, seed: int = 0, *, loss: float = 0.0, duplicate: float = 0.0, jitter: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.loss, self.duplicate, self.jitter = loss, duplicate, jitter
        self.now, self.epoch, self.attempt = 0.0, 0, 0
        self.flying: list[tuple[float, int, bool, Packet]] = []
        self.count = 0
        self.parent = self.new_parent(boot=1)
        self.child = self.new_child(boot=1)

    def new_parent(self, boot: int) -> End:
        return End(s.Session(s.Side.PARENT, "p", boot, self.now, lease_s=LEASE))

    def new_child(self, boot: int) -> End:
        self.attempt += 1
        hello = Hello("c", boot, b"", attempt=self.attempt)
        end = End(s.Session(s.Side.CHILD, "c", boot, self.now, hello=hello))
        end.do(end.session.connect(self.now), self.now)
        return end

    def pump(self) -> None:
        for up, end in ((True, self.child), (False, self.parent)):
            for packet in end.wire:
                copies = 0 if self.random.random() < self.loss else 1 + (self.random.random() < self.duplicate)
                for _ in range(copies):
                    self.count += 1
                    at = self.now + 0.001 + self.random.random() * self.jitter
                    self.flying.append((at, self.count, up, packet))
            end.wire.clear()

    def step(self, dt: float = 0.01) -> None:
        self.pump()
        self.now += dt
        self.flying.sort(key=lambda item: item[:2])
        while self.flying and self.flying[0][0] <= self.now:
            _, _, up, packet = self.flying.pop(0)
            self.arrive(self.parent if up else self.child, packet)
        for end in (self.child, self.parent):
            end.do(end.session.tick(self.now), self.now)

    def arrive(self, end: End, packet: Packet) -> None:
        if isinstance(packet.message, Hello):
            self.epoch += 1
            offer = Welcome("p", end.session.boot, self.epoch, False, self.epoch, LEASE)
            end.do(end.session.admit(packet.message, offer, self.now), self.now)
            return
        try:
            end.do(end.session.receive(packet, self.now), self.now)
        except errors.OutOfOrder:
            return

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.step()

    def both_live(self) -> bool:
        return self.child.session.state is s.State.LIVE and self.parent.session.state is s.State.LIVE


def ids(messages: list[Message]) -> list[int]:
    return [m.id if isinstance(m, Call) else m.seq for m in messages if isinstance(m, Call | Event)]


def event(n: int) -> Event:
    return Event("c", n, "c", "s", "m", 1, 0.0, {})


def test_a_quiet_hop_stays_live_on_heartbeats_alone():
    """Heartbeats keep the lease without any other traffic."""
    hop = Hop()
    hop.run(20)
    assert hop.both_live()
    assert hop.child.joins == hop.parent.joins == 1


def test_silence_past_the_lease_ends_both_ends_with_the_unacknowledged_messages():
    """What the peer never acknowledged is handed back."""
    hop = Hop()
    hop.run(0.2)
    hop.loss = 1.0
    hop.parent.do(hop.parent.session.send(Call(7, "x"), (), hop.now), hop.now)
    hop.run(3)
    assert hop.parent.session.state is s.State.OVER
    assert ids(hop.parent.lost) == [7]


def test_a_goodbye_acknowledges_what_arrived_before_it():
    """Whoever asks, reads the answer and leaves at once, leaves nothing behind that counts as lost."""
    hop = Hop()
    hop.run(0.2)
    hop.parent.do(hop.parent.session.send(Call(7, "x"), (), hop.now), hop.now)
    hop.parent.do(hop.parent.session.send(event(1), (), hop.now), hop.now)
    while not (hop.child.got and hop.child.persisted):
        hop.step(0.001)
    hop.child.do(hop.child.session.close(hop.now), hop.now)
    hop.run(0.1)
    assert hop.parent.session.state is s.State.OVER
    assert not hop.parent.lost


def test_a_goodbye_does_not_acknowledge_what_never_arrived():
    """It is handed back as lost."""
    hop = Hop()
    hop.run(0.2)
    hop.parent.do(hop.parent.session.send(Call(7, "x"), (), hop.now), hop.now)
    hop.parent.wire.clear()
    hop.child.do(hop.child.session.close(hop.now), hop.now)
    hop.run(0.1)
    assert ids(hop.parent.lost) == [7]


def test_a_parent_that_took_the_lease_back_fences_the_old_epoch():
    """A child that speaks under a stale epoch is told so and starts again."""
    hop = Hop()
    hop.run(0.2)
    hop.parent = hop.new_parent(boot=2)
    hop.child.do(hop.child.session.send(Load({}), (), hop.now), hop.now)
    hop.run(0.1)
    assert hop.child.session.state is s.State.OVER


def test_data_before_hello_is_answered_with_a_fence_and_changes_nothing():
    """An unknown peer's data never reaches the application."""
    parent = Hop().parent
    out = parent.session.receive(Packet(Load({}), 1, 0, 0, 0), 0.0)
    assert isinstance(out[0], s.Transmit)
    assert parent.session.state is s.State.NEW


def test_a_welcome_to_a_parent_is_out_of_order():
    """The table refuses what the state does not allow."""
    parent = Hop().parent
    with pytest.raises(errors.OutOfOrder):
        parent.session.receive(Packet(Welcome("x", 1, 1, False, 1, 1.0), 0, 0, 0, 0), 0.0)


def test_a_stopped_process_does_not_declare_its_peer_dead_before_reading_what_waited():
    """After a long stop the first tick gives the queued packets a chance."""
    hop = Hop()
    hop.run(0.5)
    actions = hop.parent.session.tick(hop.now + 10)
    assert not any(isinstance(a, s.Over) for a in actions)


def test_too_much_waiting_is_refused_not_dropped():
    """The queue's bound is in bytes and gives a typed error."""
    hop = Hop()
    hop.run(0.2)
    hop.loss = 1.0
    for n in range(15):
        hop.child.session.send(Call(n, "x"), (bytes(1 << 20),), hop.now)
    with pytest.raises(errors.Overloaded):
        hop.child.session.send(Call(15, "x"), (bytes(1 << 20),), hop.now)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 1 << 30),
    loss=st.sampled_from([0.0, 0.1, 0.4]),
    duplicate=st.sampled_from([0.0, 0.3]),
    jitter=st.sampled_from([0.0, 0.05, 0.3]),
    breaks=st.lists(st.sampled_from(["reconnect", "parent", "child", "none"]), max_size=4),
)
def test_any_interleaving_keeps_the_promise_of_each_class(seed, loss, duplicate, jitter, breaks):
    """Transient at most once; session in order, once, or reported lost; durable in order and never skipped."""
    hop = Hop(seed, loss=loss, duplicate=duplicate, jitter=jitter)
    hop.run(2)
    number, boot = 0, 1
    for fault in [*breaks, "none"]:
        sent_from = number
        for _ in range(30):
            number += 1
            for message in (Call(number, "x"), event(number), Load({"n": number})):
                try:
                    hop.child.do(hop.child.session.send(message, (), hop.now), hop.now)
                except errors.Disconnected:
                    if message.delivery is DeliveryClass.SESSION:
                        hop.child.lost.append(message)
            hop.step()
        boot += 1
        if fault == "reconnect":
            for end in (hop.child, hop.parent):
                end.do(end.session.lost(hop.now), hop.now)
            hop.flying.clear()
            if hop.child.session.state is s.State.SILENT:
                hop.child.do(hop.child.session.connect(hop.now), hop.now)
        elif fault == "parent":
            check_parent(hop, sent_from)
            hop.parent = hop.new_parent(boot)
        elif fault == "child":
            hop.child = hop.new_child(boot)
        hop.run(1)
        if hop.child.session.state is s.State.OVER:
            old = hop.child
            hop.child = hop.new_child(boot)
            hop.child.lost = old.lost
        hop.run(2)
    hop.loss = 0.0
    hop.run(12)
    check_parent(hop, 0)
    if not breaks and hop.both_live():
        assert set(ids(hop.parent.got)) | set(ids(hop.child.lost)) == set(range(1, number + 1))


def check_parent(hop: Hop, _since: int) -> None:
    calls = [m.id for m in hop.parent.got if isinstance(m, Call)]
    loads = [m.values["n"] for m in hop.parent.got if isinstance(m, Load)]
    assert calls == sorted(set(calls)), "session messages: in order, once"
    assert len(loads) == len(set(loads)), "transient: at most once"
    durable = [m.seq for m in hop.parent.persisted if isinstance(m, Event)]
    assert durable == sorted(set(durable)), "durable within the sessions of one sender: in order"


@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 30), loss=st.sampled_from([0.05, 0.3]), cuts=st.integers(0, 3))
def test_a_session_that_is_resumed_loses_nothing(seed, loss, cuts):
    """Cut and resumed within the lease: every session and durable message arrives, in order, once."""
    hop = Hop(seed, loss=0.0)
    hop.run(0.5)
    hop.loss = loss
    for n in range(1, 41):
        for message in (Call(n, "x"), event(n)):
            hop.child.do(hop.child.session.send(message, (), hop.now), hop.now)
        if cuts and n % (40 // cuts) == 0:
            hop.flying.clear()
            for end in (hop.child, hop.parent):
                end.do(end.session.lost(hop.now), hop.now)
            hop.child.do(hop.child.session.connect(hop.now), hop.now)
            hop.loss = 0.0
            hop.run(0.3)
            hop.loss = loss
    hop.loss = 0.0
    hop.run(6)
    assert hop.both_live()
    assert [m.id for m in hop.parent.got if isinstance(m, Call)] == list(range(1, 41))
    assert [m.seq for m in hop.parent.persisted if isinstance(m, Event)] == list(range(1, 41))


@pytest.mark.parametrize("late", [0.0, 0.004])
def test_silence_is_noticed_by_timers_that_come_late(late):
    """A peer that died unseen is given up after its lease, though each timer fires a little after its time."""
    hop = Hop()
    hop.run(1.0)
    parent, end = hop.parent.session, hop.now
    while parent.state is not s.State.OVER:
        end = parent.deadline() + late
        parent.tick(end)
        assert end < hop.now + 2 * LEASE
    hop = Hop()
    hop.run(1.0)
    hop.parent.session.lost(hop.now)
    while hop.parent.session.state is not s.State.OVER:
        end = hop.parent.session.deadline() + late
        hop.parent.session.tick(end)
        assert end < hop.now + 2 * LEASE


@pytest.mark.parametrize("lease", [float("nan"), float("inf"), -1.0, 0.0, 1e9])
def test_a_lease_that_is_none_is_refused(lease):
    """A child believes no parent whose lease is no time, and goes on greeting."""
    child = s.Session(s.Side.CHILD, "c", 1, 0.0, hello=Hello("c", 1, b"", attempt=1))
    child.connect(0.0)
    with pytest.raises(errors.MalformedFrame, match="lease"):
        child.receive(Packet(Welcome("p", 1, 1, False, 1, lease), 0, 0, 0, 0), 0.0)
    assert child.state is s.State.GREETING


def test_what_comes_before_its_turn_is_bounded_in_bytes():
    """A peer that leaves the first message out cannot fill our memory with the ones behind it."""
    hop = Hop()
    hop.run(0.1)
    parent = hop.parent.session
    size = 1 << 20
    for seq in range(2, 500):
        parent.receive(Packet(Call(seq, "x"), seq, parent.epoch, 0, 0, (), size), hop.now)
    assert parent._session.early_bytes <= channel.HELD_BYTES
    assert len(parent._session.early) <= channel.HELD_BYTES // size
    first = parent.receive(Packet(Call(1, "x"), 1, parent.epoch, 0, 0, (), size), hop.now)
    assert ids([a.message for a in first if isinstance(a, s.Deliver)]) == list(range(1, channel.HELD_BYTES // size + 2))
    assert parent._session.early_bytes == 0


def test_a_packet_that_goes_out_anyway_acknowledges():
    """An answer within 20 ms carries the acknowledgement: none is said alone."""
    hop = Hop()
    hop.run(0.1)
    hop.parent.do(hop.parent.session.send(Call(1, "x"), (), hop.now), hop.now)
    hop.step()
    hop.child.do(hop.child.session.send(Load({}), (), hop.now), hop.now)
    assert [packet.ack_session for packet in hop.child.wire] == [1]
    hop.run(0.1)
    assert not hop.parent.session._session.unacked
    assert hop.child.session._ack_at == float("inf")


@pytest.mark.parametrize("shared", [True, False])
def test_a_burst_to_many_children_is_not_resent_while_it_is_worked_off(shared):
    """A thousand are asked at once and answer one after the other, for 1.5 seconds. Who shares what all have shown
    asks next to nobody twice; who knows no more than the own hop asks most.
    """
    trip, now, resent = channel.RoundTrip(), 0.0, 0
    one = [channel.Channel(trip if shared else channel.RoundTrip()) for _ in range(1000)]
    for each in one:
        each.put(Call(1, "x"), (), now)
    for answered in one:
        now += 0.0015
        resent += sum(len(each.due(now)) for each in one if each.unacked and now >= each.resend_at)
        answered.ack(1, now)
    assert resent < 20 if shared else resent > 500


def test_a_hop_that_is_quick_again_resends_soon_again():
    """Forty answers after a slow time the quarter of a second is back."""
    trip = channel.RoundTrip()
    for _ in range(40):
        trip.add(1.5)
    assert trip.timeout == channel.RESEND_MAX_S
    for _ in range(40):
        trip.add(0.01)
    assert trip.timeout == channel.RESEND_S
