"""Updates over the air: what a device should run, and how far it is."""

from __future__ import annotations

import msgspec

from msrt.protocol.messages.base import Session

__all__ = ["Offer", "UpdateOffers", "UpdateState"]


class Offer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One image that a device should run."""

    image: bytes
    """Its description (see msrt.artifacts.images)."""
    signature: bytes
    token: str
    """Names the campaign: the same image may be offered again in another one."""
    deadline_s: float = 3600.0
    """How long the device may take from when it begins."""
    state: str = "running"
    """running; paused: begin nothing, and do not restart for it; stopped: go back, if it is not committed."""


class UpdateOffers(Session, frozen=True, tag="update.offers"):
    """Edge to device: all the images that you should run, one of a kind at most."""

    offers: tuple[Offer, ...] = ()


class UpdateState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a device runs of one kind, and how far the update of it is."""

    kind: str
    """agent, system or firmware."""
    version: str
    """Running now."""
    target: str = ""
    """The version of the last offer that it took up."""
    stage: str = ""
    """See msrt_device.updater.updating; empty: there was no update."""
    reason: str = ""
    token: str = ""
    """Of that offer."""
