"""What every message is: frozen, tagged, of one delivery class."""

from __future__ import annotations

import enum
from typing import ClassVar

import msgspec

__all__ = ["Control", "DeliveryClass", "Durable", "Mark", "Session", "Transient"]

Mark = bool | int | float | str
"""What an answer may be marked with: flat, so that the header of an answer is read the quick way (see wire)."""


class DeliveryClass(enum.IntEnum):
    """How hard the session tries. CONTROL messages drive the session itself and carry no sequence."""

    CONTROL = 0
    TRANSIENT = 1
    SESSION = 2
    DURABLE = 3


class _Message(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True):
    delivery: ClassVar[DeliveryClass]


class Transient(_Message, frozen=True):
    """A deadline and its own retry, never resent by the session, never on disk."""

    delivery: ClassVar[DeliveryClass] = DeliveryClass.TRANSIENT


class Control(_Message, frozen=True):
    """Drives the session itself."""

    delivery: ClassVar[DeliveryClass] = DeliveryClass.CONTROL


class Session(_Message, frozen=True):
    """Resent and deduplicated, in order, while both processes live."""

    delivery: ClassVar[DeliveryClass] = DeliveryClass.SESSION


class Durable(_Message, frozen=True):
    """Kept on disk by its sender until the receiver has it on disk."""

    delivery: ClassVar[DeliveryClass] = DeliveryClass.DURABLE
