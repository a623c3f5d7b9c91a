"""What the journal says of updates over the air: which images there are, and which devices should run one. Pure.

A campaign brings one version to the devices that its selector names, group by group: a device's group follows from a
hash of its id, so edges and the cloud agree on it without a word, and it stays the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from msrt.dispatch.canary import rank
from msrt.journal.fact import Fact, Key
from msrt.protocol.address import Selector

__all__ = ["FORGOTTEN", "ImagePushed", "UpdateSet", "group_of", "holding", "replaced"]


FORGOTTEN: Final = "forgotten"


class ImagePushed(Fact, frozen=True, tag="image.pushed"):
    """An image is on the cloud."""

    kind: str
    version: str
    classes: str
    """Pattern of the device classes that it is for: a version may have an image for each kind of machine."""
    image: bytes
    """See msrt.artifacts.images."""
    signature: bytes
    said_by: str = ""
    wall: float = 0.0

    @property
    def key(self) -> Key:
        return ("image", self.kind, self.version, self.classes)


class UpdateSet(Fact, frozen=True, tag="update.set"):
    """A campaign, and how far it is."""

    name: str
    """KIND@VERSION"""
    kind: str
    version: str
    selector: str = ""
    groups: tuple[float, ...] = (1.0,)
    """Shares of the devices, each with those before it, the last one 1."""
    group: int = 0
    """The groups up to this one get it."""
    first: str = ""
    """A device that is in the first group whatever its hash says, so that somebody is."""
    success: float = 0.95
    """Share of a group that must run it before the next one begins."""
    errors: float = 0.1
    """More than this share of the devices so far, and it is stopped."""
    soak_s: float = 0.0
    """How long a group that succeeded is watched before the next one begins."""
    deadline_s: float = 3600.0
    """How long one device may take; then it counts as an error."""
    state: str = "running"
    """running; paused: no device begins; stopped: devices that have begun go back; done; forgotten: it is no longer
    there."""
    reason: str = ""
    began: float = 0.0
    """Wall clock of its beginning: with the name it tells one campaign from another one of the same version."""
    wall: float = 0.0
    forgiven: int = 0
    """Errors that an operator has seen and let pass."""

    @property
    def key(self) -> Key:
        return ("update", self.name)

    @property
    def forgets(self) -> tuple[Key, ...]:
        return (self.key,) if self.state == FORGOTTEN else ()

    @property
    def token(self) -> str:
        """Names this campaign for devices."""
        return f"{self.name}/{self.began:.3f}"


def group_of(campaign: UpdateSet, node: str) -> int:
    """Which of its groups a device is in."""
    if node == campaign.first:
        return 0
    at = rank(campaign.name, node)
    return next((number for number, share in enumerate(campaign.groups) if at < share), len(campaign.groups) - 1)


def holding(campaigns: Iterable[UpdateSet], kind: str, node: str, labels: Mapping[str, str]) -> UpdateSet | None:
    """The campaign that says what a device should run: the newest one that has come to it. `labels`: with its name,
    region and class."""
    reached = (
        campaign
        for campaign in campaigns
        if campaign.kind == kind
        and group_of(campaign, node) <= campaign.group
        and Selector.parse(campaign.selector).matches(labels)
    )
    return max(reached, key=lambda campaign: campaign.began, default=None)


def replaced(campaign: UpdateSet, others: Iterable[UpdateSet]) -> bool:
    """Is there a newer campaign for every device that this one is for? Then `holding` never names this one again."""
    return any(
        other.kind == campaign.kind
        and other.began > campaign.began
        and other.group == len(other.groups) - 1
        and other.selector in ("", campaign.selector)
        for other in others
    )
