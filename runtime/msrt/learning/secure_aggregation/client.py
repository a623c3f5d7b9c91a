"""A device's part in one exchange of keys, as one table. It decides; sending, threads and the disk are its shell's.

What it holds to, whatever its edge says:
- It masks one vector, once. Another exchange has other keys.
- It answers one question about shares, and only when enough of its neighbours are in the sum: for each neighbour it
  gives its share of the one secret or of the other, never both.
- Keys that no device of this cloud signed for this exchange end it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import ClassVar, Final, TypeAlias

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from msrt.errors import BadSignature, Conflict, MsrtError, OutOfOrder
from msrt.learning.secure_aggregation.fixed import Fixed
from msrt.learning.secure_aggregation.graph import MINIMUM, threshold_of
from msrt.learning.secure_aggregation.keys import Me, Secrets, check_keys
from msrt.learning.secure_aggregation.masks import Mask, agreement, apply, derive
from msrt.learning.secure_aggregation.shamir import SHARE_SIZE, split
from msrt.learning.vector import Vector
from msrt.protocol.messages import (
    SecureMember,
    SecureOut,
    SecurePlan,
    SecureReveal,
    SecureRoster,
    SecureShare,
    SecureShares,
    SecureUnmask,
)

__all__ = ["Leave", "Ready", "Say", "SecureClient", "Stage"]

NONCE: Final = bytes(12)
"""Each key seals one message: fresh ones are agreed on for each exchange, pair and direction."""

Said: TypeAlias = SecureRoster | SecureShares | SecureUnmask | SecureOut


class Stage(enum.Enum):
    """announced: waiting for the roster. shared: for the neighbours' shares. ready: to mask, or masked. revealed: it
    said which shares it holds. out: it takes no part any more."""

    ANNOUNCED = "announced"
    SHARED = "shared"
    READY = "ready"
    REVEALED = "revealed"
    OUT = "out"


class Say(msgspec.Struct, frozen=True):
    """Tell the edge."""

    message: msgspec.Struct


class Ready(msgspec.Struct, frozen=True):
    """The masks are known: `mask` may be called once the update is there."""


class Leave(msgspec.Struct, frozen=True):
    """It takes no part any more, and why."""

    reason: str


Action: TypeAlias = Say | Ready | Leave


class SecureClient:
    """One exchange. `plan.session` names it, `most` is what a node weighs at most."""

    def __init__(self, me: Me, job: str, plan: SecurePlan, most: int) -> None:
        self.job, self.session, self.plan, self.most = job, plan.session, plan, most
        self.stage = Stage.ANNOUNCED
        self.masked = False
        self._me, self._secrets = me, Secrets.fresh(me.random)
        self.dice = int.from_bytes(me.random(8), "little")
        """What numbers between two steps are rounded by."""
        self.keys = self._secrets.announce(me, job, self.session)
        """What the edge is told first."""
        self._index, self._count = 0, 0
        self._members: dict[int, SecureMember] = {}
        self._threshold = 0
        self._shares: SecureShares | None = None
        self._held: dict[int, bytes] = {}
        """Neighbour to its two shares that I hold."""
        self._masks: list[Mask] = []
        self._agreed: dict[int, bytes] = {}
        """Neighbour to what seals and opens the shares between us."""
        self._asked: SecureUnmask | None = None
        self._told: SecureReveal | None = None

    def handle(self, message: Said) -> list[Action]:
        """What follows from a word of the edge. Blocking: signatures and key agreements, a fraction of a ms each."""
        step = self._TABLE.get((self.stage, type(message)))
        try:
            return step(self, message) if step is not None else []
        except MsrtError as error:
            return self._leave(str(error))

    def mask(self, flat: Vector, samples: int, metrics: Mapping[str, float]) -> memoryview:
        """The masked payload of an update. Raises BadUpdate, and Conflict the second time. Blocking."""
        if self.stage is not Stage.READY or self.masked:
            raise Conflict("the masks of this exchange are used", hint="another exchange has other masks")
        fixed = Fixed(flat.size, self._count, self.most, self.plan.clip, self.plan.span, self.plan.bits)
        payload = fixed.encode(flat, samples, metrics, self.dice)
        self.masked = True
        apply(payload, self._masks, self.plan.bits)
        self._masks.clear()
        return payload

    # --- the table's steps ---------------------------------------------------------------------------------------

    def _roster(self, message: SecureRoster) -> list[Action]:
        """Check everybody's keys, and share both secrets among them."""
        members = {member.index: member for member in message.neighbours}
        if len(members) + 1 < MINIMUM or len(members) != len(message.neighbours) or message.index in members:
            raise OutOfOrder(f"an exchange with {len(members)} neighbours")
        if message.count <= len(members) or not all(0 <= index < message.count for index in (message.index, *members)):
            raise OutOfOrder(f"an exchange of {message.count} devices with {len(members)} neighbours of one")
        owners = {check_keys(self.session, member, self._me.cloud).node for member in members.values()}
        if len(owners) != len(members) or self._me.node in owners:
            raise BadSignature("one device is twice in an exchange")
        self._index, self._count, self._members = message.index, message.count, members
        self._threshold = threshold_of(len(members), self.plan.threshold)
        agree = agreement(self._secrets.cipher)
        self._agreed = {index: agree(member.cipher) for index, member in members.items()}
        holders = [index + 1 for index in members]
        masks = split(self._secrets.mask, holders, self._threshold, self._me.random)
        seeds = split(self._secrets.seed, holders, self._threshold, self._me.random)
        sealed = [self._seal(index, masks[index + 1] + seeds[index + 1]) for index in members]
        self._shares = SecureShares(self.job, self.session, tuple(sealed))
        self.stage = Stage.SHARED
        return [Say(self._shares)]

    def _seal(self, index: int, pair: bytes) -> SecureShare:
        key = derive(self._agreed[index], f"share/{self.session}/{self._index}/{index}")
        return SecureShare(index, AESGCM(key).encrypt(NONCE, pair, None))

    def _open(self, share: SecureShare) -> bytes:
        key = derive(self._agreed[share.index], f"share/{self.session}/{share.index}/{self._index}")
        try:
            pair = AESGCM(key).decrypt(NONCE, share.data, None)
        except InvalidTag:
            raise BadSignature("a share that its owner did not seal for me") from None
        if len(pair) != 2 * SHARE_SIZE:
            raise BadSignature(f"a share of {len(pair)} bytes")
        return pair

    def _repeat(self, message: SecureRoster) -> list[Action]:
        """The edge did not hear the shares."""
        same = message.index == self._index and {m.index: m for m in message.neighbours} == self._members
        if not same:
            raise OutOfOrder("an exchange of other devices under the same name")
        return [Say(self._shares)] if self._shares is not None else []

    def _received(self, message: SecureShares) -> list[Action]:
        """Who sealed a share for me is masked with; who did not is out."""
        by = {share.index: share for share in message.shares}
        if len(by) != len(message.shares) or not by.keys() <= self._members.keys():
            raise OutOfOrder("shares of devices that are not my neighbours")
        if len(by) < self._threshold:
            raise OutOfOrder(f"shares of {len(by)} neighbours, my own need {self._threshold}")
        self._held = {index: self._open(share) for index, share in by.items()}
        self._masks = [(derive(self._secrets.seed, f"own/{self.session}"), False)]
        agree = agreement(self._secrets.mask)
        for index in by:
            low, high = sorted((self._index, index))
            shared = agree(self._members[index].mask)
            self._masks.append((derive(shared, f"pair/{self.session}/{low}/{high}"), self._index == high))
        self._agreed.clear()
        self.stage = Stage.READY
        return [Ready()]

    def _unmask(self, message: SecureUnmask) -> list[Action]:
        """Once. A second question could ask for the other kind of share."""
        survivors, dropped = set(message.survivors), set(message.dropped)
        if not self.masked:
            raise OutOfOrder("asked for shares before my own update was masked")
        if survivors & dropped or survivors | dropped != self._held.keys():
            raise OutOfOrder("asked for shares of other devices than my neighbours, or for both kinds")
        if len(survivors) < self._threshold:
            raise OutOfOrder(f"{len(survivors)} of my neighbours are in the sum, {self._threshold} must be")
        seeds = tuple(SecureShare(index, self._held[index][SHARE_SIZE:]) for index in sorted(survivors))
        keys = tuple(SecureShare(index, self._held[index][:SHARE_SIZE]) for index in sorted(dropped))
        self._asked, self._told = message, SecureReveal(self.job, self.session, seeds, keys)
        self._held.clear()
        self.stage = Stage.REVEALED
        return [Say(self._told)]

    def _again(self, message: SecureUnmask) -> list[Action]:
        """The same question has the same answer; another one has none."""
        same = self._asked is not None and self._told is not None and message == self._asked
        return [Say(self._told)] if same and self._told is not None else []

    def _out(self, message: SecureOut) -> list[Action]:
        self.stage = Stage.OUT
        self._forget()
        return [Leave(message.reason)]

    def _leave(self, reason: str) -> list[Action]:
        self.stage = Stage.OUT
        self._forget()
        return [Say(SecureOut(self.job, self.session, reason[:500])), Leave(reason)]

    def _forget(self) -> None:
        self._held.clear()
        self._masks.clear()

    _TABLE: ClassVar[Mapping[tuple[Stage, type], Callable[..., list[Action]]]] = {
        (Stage.ANNOUNCED, SecureRoster): _roster,
        (Stage.SHARED, SecureRoster): _repeat,
        (Stage.SHARED, SecureShares): _received,
        (Stage.READY, SecureUnmask): _unmask,
        (Stage.REVEALED, SecureUnmask): _again,
        (Stage.ANNOUNCED, SecureOut): _out,
        (Stage.SHARED, SecureOut): _out,
        (Stage.READY, SecureOut): _out,
    }
    """What is not here is not answered."""
