"""An invite: one string that holds all a new node needs to find the tree, trust it, and be let in once."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Iterable
from typing import Final, Self

import msgspec

from msrt.errors import (
    BadSignature,
    CallerError,
    InvalidAddress,
    InviteExpired,
    InviteForged,
    InviteSpent,
    InviteUnknown,
)
from msrt.protocol.address import check_label, check_region
from msrt.protocol.messages import Parent
from msrt.trust.identity import KEY_SIZE, SIGNATURE_SIZE, Identity, Purpose, verify
from msrt.trust.roles import Role

__all__ = ["Invite", "InviteBook", "InviteRecord"]

PREFIX: Final = "msrt1-"
SECRET_SIZE: Final = 16
TEXT_LIMIT: Final = 16 * 1024
INVITED: Final = frozenset({Role.EDGE, Role.DEVICE, Role.CLIENT, Role.OPERATOR})


class _Body(msgspec.Struct, frozen=True, array_like=True):
    """What is signed, beside the cloud's key. Fields may be added at the end."""

    id: str
    role: str
    region: str
    labels: dict[str, str]
    secret: bytes
    expires: float
    parents: tuple[Parent, ...]


class Invite(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed or freshly made invite. Its holder may join: handle it like a password."""

    id: str
    role: str
    """edge, device, client or operator."""
    region: str
    labels: dict[str, str]
    secret: bytes
    """16 random bytes; the cloud keeps only their hash."""
    expires: float
    """Seconds since 1970."""
    cloud_identity: bytes
    """Ed25519 public key of the cloud, 32 bytes: from here on everything signed by it is believed."""
    parents: tuple[Parent, ...]
    """Where to enrol, best first."""
    signature: bytes

    def __repr__(self) -> str:
        return f"Invite(id={self.id!r}, role={self.role!r}, region={self.region!r}, expires={self.expires!r})"

    @classmethod
    def make(
        cls,
        cloud: Identity,
        random_bytes: Callable[[int], bytes],
        *,
        role: str,
        parents: Iterable[Parent],
        expires: float,
        region: str = "",
        labels: dict[str, str] | None = None,
    ) -> Self:
        """A new signed invite. Raises CallerError for a role nobody is invited to, InvalidAddress."""
        if role not in INVITED:
            raise CallerError(f"nobody is invited as {role!r}", hint="use edge, device, client or operator")
        if role == Role.EDGE and not region:
            raise InvalidAddress("an edge needs a region", hint="msrt invite edge --region R")
        if region:
            check_region(region)
        for key, value in (labels or {}).items():
            check_label(key, value)
        body = _Body(
            id=base64.b32encode(random_bytes(10)).decode().lower(),
            role=role,
            region=region,
            labels=dict(labels or {}),
            secret=random_bytes(SECRET_SIZE),
            expires=expires,
            parents=tuple(parents),
        )
        signature = cloud.sign(cloud.public + msgspec.msgpack.encode(body), Purpose.INVITE)
        return cls(**msgspec.structs.asdict(body), cloud_identity=cloud.public, signature=signature)

    def encode(self) -> str:
        """The one string: msrt1- and base64url, no padding."""
        body = _Body(self.id, self.role, self.region, self.labels, self.secret, self.expires, self.parents)
        raw = self.cloud_identity + self.signature + msgspec.msgpack.encode(body)
        return PREFIX + _text(raw)

    @classmethod
    def parse(cls, text: str, wall: float) -> Self:
        """Read the string, at `wall` seconds since 1970. Raises InviteForged (any damage at all), InviteExpired."""
        raw = _bytes(text.strip())
        cloud, signature = raw[:KEY_SIZE], raw[KEY_SIZE : KEY_SIZE + SIGNATURE_SIZE]
        body = raw[KEY_SIZE + SIGNATURE_SIZE :]
        try:
            verify(cloud, cloud + body, signature, Purpose.INVITE)
            fields = msgspec.msgpack.decode(body, type=_Body)
        except (BadSignature, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InviteForged("the invite is damaged or was changed") from error
        if fields.expires <= wall:
            raise InviteExpired(f"the invite {fields.id} has expired")
        return cls(**msgspec.structs.asdict(fields), cloud_identity=cloud, signature=signature)

    @property
    def record(self) -> InviteRecord:
        """What the cloud keeps of it."""
        return InviteRecord(
            id=self.id,
            role=self.role,
            region=self.region,
            labels=self.labels,
            secret_hash=hash_secret(self.secret),
            expires=self.expires,
        )


class InviteRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The cloud's side of an invite: enough to know its holder, too little to use it."""

    id: str
    role: str
    secret_hash: bytes
    """SHA-256, 32 bytes. The secret has 128 random bits: a slow hash would add nothing."""
    expires: float
    """Seconds since 1970."""
    region: str = ""
    labels: dict[str, str] = {}
    spent_by: str = ""
    """Node id; empty while it may be used."""


class InviteBook:
    """All invites of a tree, folded from the journal's entries. Pure."""

    def __init__(self, records: Iterable[InviteRecord] = ()) -> None:
        self.records = {record.id: record for record in records}

    def issued(self, record: InviteRecord) -> None:
        """An invite was written down."""
        self.records[record.id] = record

    def spent(self, invite: str, node: str) -> None:
        """A node was let in with it; nobody else ever will be."""
        if record := self.records.get(invite):
            self.records[invite] = msgspec.structs.replace(record, spent_by=node)

    def prune(self, wall: float, keep_s: float = 30 * 86400.0) -> list[str]:
        """Forget what expired more than `keep_s` seconds ago; returns the ids. Until then its holder hears why."""
        old = [record.id for record in self.records.values() if record.expires + keep_s <= wall]
        for invite in old:
            del self.records[invite]
        return old

    def check(self, invite: str, secret: bytes, wall: float, node: str = "") -> InviteRecord:
        """The record behind an Enrol, if it may be used now.

        The node that spent it may ask again: its answer was lost on the way.
        Raises InviteUnknown, InviteForged (wrong secret), InviteSpent, InviteExpired.
        """
        record = self.records.get(invite)
        if record is None:
            raise InviteUnknown("this tree never issued that invite")
        if not hmac.compare_digest(record.secret_hash, hash_secret(secret)):
            raise InviteForged(f"the secret of invite {invite} is wrong")
        if record.spent_by:
            if node and record.spent_by == node:
                return record
            raise InviteSpent(f"invite {invite} was used before")
        if record.expires <= wall:
            raise InviteExpired(f"the invite {invite} has expired")
        return record


def hash_secret(secret: bytes) -> bytes:
    """What the cloud stores instead of the secret."""
    return hashlib.sha256(b"msrt/invite-secret/1\0" + secret).digest()


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    if not text.startswith(PREFIX) or len(text) > TEXT_LIMIT:
        raise InviteForged("this is not an invite")
    body = text.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InviteForged("the invite is damaged") from error
    if _text(raw) != body:  # unused bits of the last character: two spellings of one invite are one too many
        raise InviteForged("the invite is damaged")
    return raw
