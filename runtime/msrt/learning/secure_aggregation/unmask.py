"""Taking the masks off a sum: the survivors' own, and those that survivors share with who dropped out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from msrt.errors import BadUpdate
from msrt.learning.secure_aggregation.masks import Mask, agreement, apply, derive, public_of
from msrt.learning.secure_aggregation.shamir import combine

__all__ = ["Dropped", "Survivor", "Unmasking", "unmask"]


class Survivor(msgspec.Struct, frozen=True):
    """One device whose update is in the sum."""

    index: int
    commitment: bytes
    shares: Mapping[int, bytes]
    """Of the seed of its own mask: holder's index to share, as many as it takes."""


class Dropped(msgspec.Struct, frozen=True):
    """One device whose masks are in the sum by its neighbours, and which itself is not."""

    index: int
    public: bytes
    shares: Mapping[int, bytes]
    """Of its key for masks."""
    partners: Mapping[int, bytes]
    """Its neighbours in the sum: index to public key."""


class Unmasking(msgspec.Struct, frozen=True):
    """All that it takes."""

    session: str
    bits: int
    survivors: tuple[Survivor, ...]
    dropped: tuple[Dropped, ...]


def unmask(total: memoryview, work: Unmasking) -> None:
    """Take all masks off the sum, in place. Raises BadUpdate when shares do not give what was announced. Blocking."""
    masks = [_own(one, work.session) for one in work.survivors]
    for one in work.dropped:
        masks += _pairs(one, work.session)
    apply(total, masks, work.bits)


def _secret(shares: Mapping[int, bytes]) -> bytes:
    return combine({holder + 1: share for holder, share in shares.items()})


def _own(one: Survivor, session: str) -> Mask:
    seed = _secret(one.shares)
    if hashlib.sha256(seed).digest() != one.commitment:
        raise BadUpdate(f"the shares of device {one.index} are not of the mask that it announced")
    return derive(seed, f"own/{session}"), True


def _pairs(one: Dropped, session: str) -> list[Mask]:
    secret = _secret(one.shares)
    if public_of(secret) != one.public:
        raise BadUpdate(f"the shares of device {one.index} are not of the key that it announced")
    masks, agree = [], agreement(secret)
    for partner, public in one.partners.items():
        low, high = sorted((one.index, partner))
        key = derive(agree(public), f"pair/{session}/{low}/{high}")
        masks.append((key, partner == low))  # the lower one has added it
    return masks
