"""The life of one hop, child to parent, as ONE transition table.

Both sides run the same machine; the table says which side may do what in which state. A session gives each delivery
class its promise while both processes live: transient messages are delivered at most once, session messages in order
and exactly once, durable messages in order and acknowledged only when the application has them on disk. What is still
unacknowledged when the other process is gone is handed back (`Over.lost`, `Joined.lost`), never dropped in silence.

`session_table` holds the table and the actions, `channel` the numbering and resending of one class.
"""

from __future__ import annotations

from typing import Final

import msgspec

from msrt import errors
from msrt.protocol.channel import RESEND_MAX_S, RESEND_S, Channel, RoundTrip
from msrt.protocol.messages import Bye, DeliveryClass, Fence, Heartbeat, Hello, Message, Refuse, Welcome
from msrt.protocol.session_table import (
    TABLE,
    Acked,
    Action,
    Deliver,
    Event,
    Frames,
    Joined,
    Over,
    Persist,
    Received,
    Side,
    Silent,
    State,
    Transmit,
)

__all__ = [
    "TABLE",
    "Acked",
    "Action",
    "Deliver",
    "Event",
    "Frames",
    "Joined",
    "Over",
    "Persist",
    "Session",
    "Side",
    "Silent",
    "State",
    "Transmit",
]

C, P = Side.CHILD, Side.PARENT
ACK_DELAY_S: Final = 0.02
SEEN_BITS: Final = 4096
"""Transient sequence numbers remembered to drop duplicates."""
_SEEN_ALL: Final = (1 << SEEN_BITS) - 1
LEASE_MIN_S: Final = 0.02
LEASE_MAX_S: Final = 3600.0
"""What a child takes for a lease; anything else in a welcome is a fault of the parent."""


class Session:
    """One hop between a child and a parent.

    `hello` (child): what to say; `resume` fields are filled in by the machine. `lease_s`: the parent's terms (the
    child learns them). `trip`: shared with the other sessions of this parent. All times are World.now seconds.
    """

    def __init__(
        self,
        side: Side,
        node: str,
        boot: int,
        now: float,
        *,
        lease_s: float = 1.5,
        hello: Hello | None = None,
        trip: RoundTrip | None = None,
    ) -> None:
        self.side, self.node, self.boot, self.lease_s = side, node, boot, lease_s
        self.state = State.NEW
        self.epoch = 0
        self.id = 0
        self.peer_boot = 0
        self.expired = False
        """It is over because nothing was heard for its lease."""
        self._attempt = 0
        self.hello = hello
        self.welcome: Welcome | None = None
        self._heard = self._said = self._ticked = now
        self._greet_at = float("inf")
        self._greet_s = RESEND_S
        self._ack_at = float("inf")
        self._trip = trip or RoundTrip()
        self._reset()

    def _reset(self) -> None:
        self._session = Channel(self._trip)
        self._durable = Channel()
        self._transient_seq = 0
        self._seen_top = 0
        self._seen = 0

    # --- what the shell calls ----------------------------------------------------------------------------

    @property
    def ack_session(self) -> int:
        """Goes into the header of every packet."""
        return self._session.acked

    @property
    def ack_durable(self) -> int:
        """Goes into the header of every packet."""
        return self._durable.acked

    @property
    def queued_bytes(self) -> int:
        """Bytes not yet acknowledged by the peer."""
        return self._session.bytes + self._durable.bytes

    def connect(self, now: float) -> list[Action]:
        """Child: say hello (again)."""
        return self._step(Event.CONNECT, None, now)

    def admit(self, hello: Hello, welcome: Welcome, now: float) -> list[Action]:
        """Parent: the hello was checked; `welcome` holds session id, epoch, lease and parents to offer."""
        return self._step(Event.HELLO, (hello, welcome), now)

    def stale(self, hello: Hello) -> bool:
        """Parent: this greeting is older than the session that is here, a straggler of the network."""
        known = self.state is not State.NEW and hello.boot == self.peer_boot
        return known and hello.attempt < self._attempt

    def lost(self, now: float) -> list[Action]:
        """The transport says that the peer is gone."""
        if (self.side, self.state, Event.LOST) not in TABLE:
            return []
        return self._step(Event.LOST, None, now)

    def close(self, now: float, reason: str = "") -> list[Action]:
        """Leave on purpose."""
        bye: list[Action] = [Transmit(Bye(reason), (), 0)] if self.state is State.LIVE else []
        return bye + self._step(Event.CLOSE, None, now)

    def send(self, message: Message, frames: Frames, now: float) -> list[Action]:
        """Send by the message's delivery class. Raises Disconnected when not live, Overloaded when too much waits."""
        delivery = message.delivery
        if delivery is DeliveryClass.TRANSIENT:
            if self.state is not State.LIVE:
                raise errors.Disconnected("the peer is away")
            self._transient_seq += 1
            self._spoke(now)
            return [Transmit(message, frames, self._transient_seq)]
        if self.state not in (State.LIVE, State.SILENT):
            raise errors.Disconnected("the peer is away")
        if delivery is DeliveryClass.CONTROL:
            return [Transmit(message, frames, 0)]
        channel = self._durable if delivery is DeliveryClass.DURABLE else self._session
        sent = channel.put(message, frames, now)
        if sent is None or self.state is not State.LIVE:
            return []
        self._spoke(now)
        return [Transmit(sent.message, sent.frames, sent.seq)]

    def _spoke(self, now: float) -> None:
        """A packet goes out, and its header acknowledges. Where it is lost the peer resends, and is answered anew."""
        self._said, self._ack_at = now, float("inf")

    def receive(self, packet: Received, now: float) -> list[Action]:
        """One decoded packet from the peer. Raises OutOfOrder for what the state does not allow."""
        message = packet.message
        if isinstance(message, Bye) and packet.epoch == self.epoch and self.state in (State.LIVE, State.SILENT):
            self._check_acks(packet)
            # what the goodbye acknowledges is not lost; what it would make room for goes nowhere any more
            acked = [action for action in self._acks(packet, now) if isinstance(action, Acked)]
            return acked + self._control(message, now)
        if packet.delivery == DeliveryClass.CONTROL and not isinstance(message, Heartbeat):
            return self._control(message, now)
        if packet.epoch == self.epoch and self.state in (State.LIVE, State.SILENT):
            self._check_acks(packet)
            if self.state is State.LIVE:
                return self._data(packet, now)
            return self._step(Event.DATA, packet, now)
        if self.side is P:
            return [Transmit(Fence(self.epoch if self.state is State.LIVE else 0), (), 0)]
        return []

    def persisted(self, seq: int, now: float) -> None:
        """The application has every durable message up to `seq` on disk: acknowledge them."""
        self._durable.acked = max(self._durable.acked, seq)
        self._ack_at = min(self._ack_at, now)

    def tick(self, now: float) -> list[Action]:
        """Timers: heartbeats, acknowledgements, resends, leases."""
        beat = self.lease_s / 3
        if now - self._ticked > 2 * beat:  # twice what `deadline` asks for
            # This process was itself stopped or starved: give the peer's queued packets a chance to be read first.
            self._heard = max(self._heard, now - beat)
        self._ticked = now
        if self.state is State.GREETING and now >= self._greet_at:
            return self.connect(now)
        if self.state in (State.LIVE, State.SILENT) and now >= self._heard + self.lease_s:
            return self._step(Event.LEASE_OUT, None, now)
        if self.state is not State.LIVE:
            return []
        out: list[Action] = []
        for channel in (self._session, self._durable):
            if now >= channel.resend_at:
                out += [Transmit(s.message, s.frames, s.seq) for s in channel.due(now)]
        if now >= self._ack_at or now >= self._said + beat:
            out.append(Transmit(Heartbeat(), (), 0))
        if out:
            self._spoke(now)
        return out

    def deadline(self) -> float:
        """When `tick` is next needed."""
        if self.state is State.GREETING:
            return self._greet_at
        if self.state is State.SILENT:
            return min(self._heard + self.lease_s, self._ticked + self.lease_s / 3)
        if self.state is not State.LIVE:
            return float("inf")
        return min(
            self._heard + self.lease_s,
            self._said + self.lease_s / 3,
            self._ack_at,
            self._session.resend_at,
            self._durable.resend_at,
        )

    # --- transitions -------------------------------------------------------------------------------------

    def _step(self, event: Event, payload: object, now: float) -> list[Action]:
        found = TABLE.get((self.side, self.state, event))
        if found is None:
            raise errors.OutOfOrder(f"{event.value} while {self.state.value}", hint="say hello first")
        before, (self.state, name) = self.state, found
        out: list[Action] = getattr(self, f"_do_{name}")(payload, now, before)
        return out

    def _control(self, message: Message, now: float) -> list[Action]:
        match message:
            case Welcome():
                if not LEASE_MIN_S <= message.lease_s <= LEASE_MAX_S:  # NaN is not between anything
                    raise errors.MalformedFrame(f"a welcome with a lease of {message.lease_s} s")
                return self._step(Event.WELCOME, message, now)
            case Refuse():
                return self._step(Event.REFUSE, message, now)
            case Fence():
                return self._step(Event.FENCE, message, now) if message.epoch != self.epoch else []
            case Bye():
                return self._step(Event.BYE, message, now) if self.state is not State.OVER else []
        raise errors.OutOfOrder(f"{type(message).__name__} inside a session")

    def _check_acks(self, packet: Received) -> None:
        """Before anything of the packet is done."""
        for channel, upto in ((self._session, packet.ack_session), (self._durable, packet.ack_durable)):
            if upto >= channel.next_seq - len(channel.waiting):  # more than `sent`, without a call for each packet
                raise errors.OutOfOrder(f"an acknowledgement of {upto}, where {channel.sent} were sent")

    def _acks(self, packet: Received, now: float) -> list[Action]:
        out: list[Action] = []
        for channel, upto in ((self._session, packet.ack_session), (self._durable, packet.ack_durable)):
            if channel.unacked:
                out += [Transmit(s.message, s.frames, s.seq) for s in channel.ack(upto, now)]
        if self._durable.settled:
            out.append(Acked(tuple(self._durable.settled)))
            self._durable.settled.clear()
        self._session.settled.clear()
        return out

    def _data(self, packet: Received, now: float) -> list[Action]:
        self._heard = now
        out = self._acks(packet, now)
        if packet.delivery == DeliveryClass.TRANSIENT:
            if self._fresh(packet.seq):
                out.append(Deliver(packet.message, packet.frames))
            return out
        if packet.delivery == DeliveryClass.CONTROL:
            return out
        durable = packet.delivery == DeliveryClass.DURABLE
        channel = self._durable if durable else self._session
        for seq, message, frames in channel.take(packet.seq, packet.message, packet.frames, packet.size):
            out.append(Persist(message, frames, seq) if durable else Deliver(message, frames))
        if not durable:
            channel.acked = channel.received
        self._ack_at = min(self._ack_at, now + ACK_DELAY_S)
        return out

    def _fresh(self, seq: int) -> bool:
        """Is this transient sequence new? Remembers a window, so that a late one is still taken once."""
        ahead = seq - self._seen_top
        if ahead > 0:
            self._seen = ((self._seen << ahead) | 1) & _SEEN_ALL if ahead < SEEN_BITS else 1
            self._seen_top = seq
            return True
        bit = 1 << -ahead
        if -ahead >= SEEN_BITS or self._seen & bit:
            return False
        self._seen |= bit
        return True

    def _do_ignore(self, _payload: object, _now: float, _before: State) -> list[Action]:
        return []

    def _do_greet(self, _payload: object, now: float, before: State) -> list[Action]:
        assert self.hello is not None
        self._greet_s = RESEND_S if before is not State.GREETING else min(self._greet_s * 2, RESEND_MAX_S)
        self._greet_at = now + self._greet_s
        hello = msgspec.structs.replace(self.hello, session=self.id, received=self._session.received)
        return [Transmit(hello, (), 0)]

    def _do_welcomed(self, payload: object, now: float, _before: State) -> list[Action]:
        assert isinstance(payload, Welcome)
        self.welcome, self.epoch, self.lease_s = payload, payload.epoch, payload.lease_s
        self._greet_at = float("inf")
        resumed = payload.resumed and payload.session == self.id
        self.id, self.peer_boot = payload.session, payload.boot
        return self._live(resumed, payload.received, now)

    def _do_admitted(self, payload: object, now: float, before: State) -> list[Action]:
        assert isinstance(payload, tuple)
        hello, offer = payload
        known = before is not State.NEW and hello.boot == self.peer_boot
        if self.stale(hello):
            self.state = before
            return []
        same = known and hello.attempt == self._attempt and before is not State.OVER
        if not same:
            self.id, self.epoch, self.peer_boot, self._attempt = offer.session, offer.epoch, hello.boot, hello.attempt
        self.welcome = msgspec.structs.replace(
            offer, session=self.id, epoch=self.epoch, resumed=same and hello.session == self.id,
            received=self._session.received if same else 0,
        )  # fmt: skip
        welcome: list[Action] = [Transmit(self.welcome, (), 0)]
        if same and before is State.LIVE:
            self._heard = now
            return welcome
        return welcome + self._live(same, hello.received, now)

    def _live(self, resumed: bool, received: int, now: float) -> list[Action]:  # noqa: FBT001
        lost: tuple[Message, ...] = ()
        if resumed:
            self._session.ack(received, now)
        else:
            lost = self._session.messages()
            self._reset()
        self._heard = self._said = now
        resend: list[Action] = []
        for channel in (self._session, self._durable):
            channel.resend_s = RESEND_S / 2
            resend += [Transmit(s.message, s.frames, s.seq) for s in channel.resend(now)]
        return [Joined(resumed, lost), *resend]

    def _do_revived(self, payload: object, now: float, _before: State) -> list[Action]:
        return [Joined(resumed=True), *self._data(payload, now)]  # type: ignore[arg-type]

    def _do_silent(self, _payload: object, _now: float, _before: State) -> list[Action]:
        return [Silent()]

    def _end(self, error: errors.MsrtError | None) -> list[Action]:
        lost = self._session.messages()
        self._reset()
        self.id = 0
        return [Over(error, lost)]

    def _do_refused(self, payload: object, _now: float, _before: State) -> list[Action]:
        assert isinstance(payload, Refuse)
        error = errors.from_wire(payload.code, payload.text, payload.hint)
        if isinstance(error, errors.Revoked):
            error.order = payload.order
        return self._end(error)

    def _do_fenced(self, _payload: object, _now: float, _before: State) -> list[Action]:
        return self._end(errors.StaleEpoch("the parent gave this node's lease away"))

    def _do_left(self, payload: object, _now: float, _before: State) -> list[Action]:
        reason = payload.reason if isinstance(payload, Bye) else ""
        return self._end(errors.Disconnected(f"the peer said goodbye{': ' + reason if reason else ''}"))

    def _do_expired(self, _payload: object, _now: float, _before: State) -> list[Action]:
        self.expired = True
        return self._end(errors.Disconnected(f"nothing was heard for the lease of {self.lease_s:g} s"))

    def _do_closed(self, _payload: object, _now: float, _before: State) -> list[Action]:
        acked = self._session.acked, self._durable.acked
        out = self._end(None)
        self._session.acked, self._durable.acked = acked  # the goodbye is encoded after this, and acknowledges them
        return out
