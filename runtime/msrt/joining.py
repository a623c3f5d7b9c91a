"""How a node comes into the tree, and what it remembers of it: identity, certificate, parents.

Used by edges, devices and clients alike: `join` spends an invite, `Membership` survives restarts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from msrt import errors
from msrt.hop.homing import Endpoint
from msrt.hop.uplink import enrol
from msrt.life import default_name
from msrt.links.link import Credentials
from msrt.protocol import wire
from msrt.protocol.messages import Enrol, Hello, Parent
from msrt.trust.certificate import check_certificate, prove
from msrt.trust.identity import Identity
from msrt.trust.invite import Invite
from msrt.trust.roles import Role
from msrt.world.field import OFFLOAD_NICE, field_world
from msrt.world.files import FieldDisk
from msrt.world.world import Store, World

__all__ = [
    "Membership",
    "admit",
    "endpoint_for",
    "hello_of",
    "join",
    "load_member",
    "new_member",
    "next_boot",
    "take_in",
]

_KEY = "membership"
IDENTITY = "identity.json"
PASSING = (
    errors.DeadlineExceeded, errors.Disconnected, errors.Unavailable, errors.Overloaded, errors.WrongServerKey,
    errors.BrokerFailed,
)  # fmt: skip
"""What one parent of an invite may be at fault for: the next one is asked."""


class Membership(msgspec.Struct, frozen=True):
    """What a node holds of its tree."""

    certificate: bytes
    """Signed by the cloud; see msrt.trust.certificate."""
    cloud_identity: bytes
    """Ed25519 public key that signs everything the cloud desires, 32 bytes."""
    parents: tuple[Parent, ...]
    """Where to go, best first."""
    name: str
    role: str
    region: str
    mqtt_password: str = ""

    @classmethod
    def load(cls, store: Store) -> Membership | None:
        """The membership on disk, None before the first join."""
        for key, value in store.scan(_KEY):
            if key == _KEY:
                return wire.unpack(value, cls)
        return None

    async def save(self, world: World, store: Store) -> None:
        """Make it durable. Raises DiskFull."""
        await world.offload(self.save_now, store)

    def save_now(self, store: Store) -> None:
        """The same, blocking."""
        store.put(_KEY, wire.pack(self))
        store.commit()

    def with_parents(self, parents: list[Parent]) -> Membership:
        """The same with another list of parents."""
        return msgspec.structs.replace(self, parents=tuple(parents))


def _url(parent: Parent, link: str) -> str:
    return parent.mqtt if link == "mqtt" else parent.zmq


async def join(
    world: World,
    identity: Identity,
    invite: Invite,
    name: str,
    *,
    address: Parent | None = None,
    link: str = "zmq",
    serial: str = "",
) -> Membership:
    """Spend an invite at the first of its parents that answers.

    Raises the invite errors, WrongServerKey, Unavailable (the parent cannot reach the cloud), DeadlineExceeded.
    """
    request = Enrol(
        invite=invite.id, secret=invite.secret, identity=identity.public, link_key=identity.link_public,
        proof=prove(identity, invite.id), name=name, address=address, serial=serial,
    )  # fmt: skip
    failure: errors.MsrtError = errors.Unavailable(
        f"the invite names no parent that speaks {link}", hint="start an edge with --mqtt, or join with --link zmq"
    )
    for parent in invite.parents:
        if not _url(parent, link):
            continue
        credentials = Credentials(
            secret_key=identity.link_secret, server_key=parent.link_key, username=f"invite-{invite.id}",
            password=invite.secret.hex(), fingerprint=parent.mqtt_fingerprint, master=parent.node,
        )  # fmt: skip
        try:
            enrolled = await enrol(world, _url(parent, link), credentials, request)
        except PASSING as error:
            failure = error
            continue
        if enrolled.cloud_identity != invite.cloud_identity:
            raise errors.WrongServerKey(
                "the parent answers for another cloud than the invite's", hint="ask for a new invite"
            )
        certificate = check_certificate(enrolled.certificate, invite.cloud_identity)
        return Membership(
            certificate=enrolled.certificate, cloud_identity=enrolled.cloud_identity,
            parents=enrolled.parents or invite.parents, name=certificate.name, role=certificate.role,
            region=certificate.region, mqtt_password=enrolled.mqtt_password,
        )  # fmt: skip
    raise failure


def endpoint_for(identity: Identity, membership: Membership, link: str = "zmq") -> Endpoint:
    """How this node reaches a parent over `link` (zmq or mqtt)."""

    def endpoint(parent: Parent) -> tuple[str, Credentials] | None:
        url = _url(parent, link)
        if not url:
            return None
        return url, Credentials(
            secret_key=identity.link_secret, server_key=parent.link_key, username=identity.node,
            password=membership.mqtt_password, fingerprint=parent.mqtt_fingerprint, master=parent.node,
        )  # fmt: skip

    return endpoint


def hello_of(
    world: World, identity: Identity, membership: Membership, *, address: Parent | None = None, device_class: str = "",
    agent: str = "", serial: str = "",
) -> Hello:  # fmt: skip
    """What this process says when it greets a parent."""
    return Hello(
        node=identity.node, boot=world.random.getrandbits(63), certificate=membership.certificate,
        address=address, device_class=device_class, agent=agent, serial=serial,
    )  # fmt: skip


async def next_boot(world: World, store: Store) -> int:
    """Count this process start on disk: a parent's lease epochs begin at the count, shifted left by 24 bits."""
    found = dict(store.scan("boots"))
    boots = int.from_bytes(found.get("boots", b""), "big") + 1
    store.put("boots", boots.to_bytes(8, "big"))
    await world.offload(store.commit)
    return boots


def new_member(folder: Path, role: str = "") -> tuple[World, Identity]:
    """A field node's world and identity in its state directory; the identity is made at the first start."""
    world = field_world(folder, offload_nice=0 if role == Role.DEVICE else OFFLOAD_NICE)
    path = folder / IDENTITY
    if path.exists():
        return world, Identity.load(path)
    identity = Identity.generate(world.random.randbytes)
    identity.save(path)
    return world, identity


async def admit(
    folder: Path,
    role: str,
    invite: str,
    name: str,
    *,
    link: str = "zmq",
    spending: Callable[[], None] | None = None,
    serial: str = "",
) -> tuple[World, Identity, Membership]:
    """A node's membership: from its disk, else by spending the invite, and then on its disk.

    `spending` (blocking) is called before the invite is spent, if it will be.

    Raises NotEnrolled when there is neither, StateForeign when the invite is for another role, the invite errors.
    """
    world, identity = new_member(folder, role)
    store = world.disk.store("node")
    membership = Membership.load(store)
    if membership is not None:
        return world, identity, membership
    if not invite:
        raise errors.NotEnrolled(
            f"{folder} holds no membership yet", hint=f"msrt {role} join INVITE (msrt invite {role})"
        )
    parsed = Invite.parse(invite, world.wall())
    if parsed.role != role:
        raise errors.CallerError(
            f"the invite is for a node of role {parsed.role}, not {role}", hint=f"msrt invite {role}"
        )
    if spending is not None:
        await world.offload(spending)
    membership = await join(world, identity, parsed, default_name(name, identity.node), link=link, serial=serial)
    await membership.save(world, store)
    return world, identity, membership


def take_in(folder: Path, membership: Membership) -> None:
    """Keep a membership that somebody else was given for the identity in this directory. Blocking.

    Raises BadSignature where its certificate is another node's, DiskFull.
    """
    identity = Identity.load(folder / IDENTITY)
    certificate = check_certificate(membership.certificate, membership.cloud_identity)
    if certificate.node != identity.node:
        raise errors.BadSignature(f"the certificate is of {certificate.node}, not of {identity.node}")
    disk = FieldDisk(folder)
    membership.save_now(disk.store("node"))
    disk.close()


async def load_member(folder: Path) -> tuple[World, Identity, Membership]:
    """The same for a node that has joined. Raises NotEnrolled."""
    world, identity = new_member(folder)
    membership = Membership.load(world.disk.store("node"))
    if membership is None:
        raise errors.NotEnrolled(
            f"{folder} holds no membership", hint="log in: msrt login INVITE, or name another --state"
        )
    return world, identity, membership
