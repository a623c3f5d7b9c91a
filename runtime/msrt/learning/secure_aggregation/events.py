"""What can happen in an edge's part of an exchange of keys, and what can follow: `server` decides, a shell performs."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from msrt.learning.secure_aggregation.unmask import Unmasking
from msrt.protocol.messages import SecureKeys, SecureOut, SecureReveal, SecureRoster, SecureShares, SecureUnmask

__all__ = ["Action", "Event", "Exclude", "GiveUp", "Joined", "Left", "Said", "Sealed", "Tell", "Tick", "Unmask"]


class Said(msgspec.Struct, frozen=True):
    """A device said its part."""

    node: str
    message: SecureKeys | SecureShares | SecureReveal | SecureOut


class Joined(msgspec.Struct, frozen=True):
    """A participant is (again) here."""

    node: str


class Left(msgspec.Struct, frozen=True):
    """It went away: nobody waits for it."""

    node: str


class Sealed(msgspec.Struct, frozen=True):
    """The sum holds the masked updates of exactly these, and no other will be added."""

    nodes: frozenset[str]
    until: float
    """When the sum must be unmasked."""


class Tick(msgspec.Struct, frozen=True):
    """Time passed: see `wake`."""


class Tell(msgspec.Struct, frozen=True):
    """Send it to that device."""

    node: str
    message: SecureRoster | SecureShares | SecureUnmask | SecureOut


class Exclude(msgspec.Struct, frozen=True):
    """No update of this device can be in the sum, and why."""

    node: str
    reason: str


class Unmask(msgspec.Struct, frozen=True):
    """Everything is here to take the masks off the sum."""

    work: Unmasking


class GiveUp(msgspec.Struct, frozen=True):
    """There will be no sum, and why."""

    reason: str


Event: TypeAlias = Said | Joined | Left | Sealed | Tick
Action: TypeAlias = Tell | Exclude | Unmask | GiveUp
