"""The session itself, and calls: a question with one answer."""

from __future__ import annotations

import msgspec

from msrt.protocol.messages.base import Control, Session

__all__ = [
    "Bye", "Call", "Enrol", "Enrolled", "Failed", "Fence", "Heartbeat", "Hello", "Parent", "Parents", "Refuse",
    "Return", "Welcome",
]  # fmt: skip


class Parent(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a node can be reached as a parent."""

    node: str
    """Node id."""
    link_key: bytes = b""
    """Its CURVE public key, 32 bytes; empty where the link has none."""
    zmq: str = ""
    """tcp://HOST:PORT"""
    mqtt: str = ""
    """mqtt://HOST:PORT or mqtts://HOST:PORT"""
    mqtt_fingerprint: str = ""
    """SHA-256 of the broker's certificate, hex; empty without TLS."""
    http: str = ""
    """http://HOST:PORT or https://HOST:PORT"""
    region: str = ""
    http_fingerprint: str = ""
    """SHA-256 of the certificate that https shows, hex; empty without, or where an authority vouches for it."""


class Hello(Control, frozen=True, tag="hello"):
    """Child to parent: who I am, and what I remember of our last session."""

    node: str
    boot: int
    """Random per process start; a changed one voids the session's unacknowledged messages."""
    certificate: bytes
    attempt: int = 0
    """Counts this process's sessions: a repeated one is the same greeting resent, a smaller one is stale."""
    session: int = 0
    """Id of the session to resume, 0 for none."""
    received: int = 0
    """Highest session-class sequence received in it, in order."""
    address: Parent | None = None
    """Where I listen, if I am a parent myself."""
    device_class: str = ""
    previous: str = ""
    """The parent I was with before, empty at the first join."""
    agent: str = ""
    """Version of the program that I am; a welcome to this greeting is what a new one must have to be kept."""
    serial: str = ""
    """Serial number of the board that I run on."""


class Welcome(Control, frozen=True, tag="welcome"):
    """Parent to child: your lease."""

    node: str
    boot: int
    session: int
    resumed: bool
    epoch: int
    lease_s: float
    received: int = 0
    """Highest session-class sequence received from the child in a resumed session."""
    parents: tuple[Parent, ...] = ()
    """Where else to go, best first."""


class Refuse(Control, frozen=True, tag="refuse"):
    """No, and why. The session closes."""

    code: str
    text: str
    hint: str = ""
    order: bytes = b""
    """The cloud's signature over the node's id, 64 bytes: it is decommissioned, and is to wipe itself."""


class Heartbeat(Control, frozen=True, tag="heartbeat"):
    """I live. Acknowledgements ride in the header."""

    reply: bool = False
    """Ask the other side to answer at once."""


class Fence(Control, frozen=True, tag="fence"):
    """Parent to child: your lease was taken, your epoch is stale; say hello again."""

    epoch: int


class Bye(Control, frozen=True, tag="bye"):
    """I leave on purpose."""

    reason: str = ""


class Enrol(Control, frozen=True, tag="enrol"):
    """A node with an invite asks for a certificate. An edge relays it to the cloud."""

    invite: str
    secret: bytes
    identity: bytes
    """Ed25519 public key, 32 bytes."""
    link_key: bytes
    """X25519 (CURVE) public key, 32 bytes."""
    proof: bytes
    """Signature of (invite, link_key) by the identity."""
    name: str
    address: Parent | None = None
    serial: str = ""
    """Serial number of its board."""


class Enrolled(Control, frozen=True, tag="enrolled"):
    """The certificate, and where to go with it."""

    certificate: bytes
    cloud_identity: bytes
    parents: tuple[Parent, ...]
    mqtt_password: str = ""


class Parents(Session, frozen=True, tag="parents"):
    """Parent to child: the list of parents changed; it takes the place of the welcome's."""

    parents: tuple[Parent, ...]
    """Where else to go, best first."""


class Call(Session, frozen=True, tag="call"):
    """Ask the other side to run a named method."""

    id: int
    method: str
    params: dict[str, object] = msgspec.field(default_factory=dict)
    timeout_ms: int = 30_000


class Return(Session, frozen=True, tag="return"):
    """A call's result."""

    id: int
    result: object = None


class Failed(Session, frozen=True, tag="failed"):
    """A call's error."""

    id: int
    code: str
    text: str
    hint: str = ""
