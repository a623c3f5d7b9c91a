"""Which images each device of this edge should run, as the journal's campaigns have it, and which to have here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import structlog

from msrt import errors
from msrt.artifacts.images import Image, Kind, fits, read_image
from msrt.hop import Peer
from msrt.journal.state import State
from msrt.journal.updates import ImagePushed, UpdateSet, holding
from msrt.protocol.address import Selector
from msrt.protocol.messages import Offer, UpdateOffers
from msrt.trust.tuf.claims import Vouch, image_claim

__all__ = ["Offering"]

log = structlog.get_logger()


class Offering:
    """Descriptions of images become known once somebody vouched for them."""

    def __init__(self, state: Callable[[], State]) -> None:
        self._state = state
        self._checked: dict[bytes, Image] = {}

    def unknown(self) -> list[ImagePushed]:
        """Those that the journal names and that are not known yet."""
        every = self._state().images.values()
        return [pushed for by_class in every for pushed in by_class.values() if pushed.image not in self._checked]

    async def learn(self, pushed: ImagePushed, vouch: Vouch) -> None:
        """Raises what `vouch` raises, InvalidImage."""
        image = read_image(pushed.image)
        await vouch(image_claim(image, pushed.image, pushed.signature))
        self._checked[pushed.image] = image

    def _image(self, campaign: UpdateSet, device_class: str) -> tuple[Image, ImagePushed] | None:
        """Of a campaign's version the image for such a device: the one whose pattern says most."""
        found = [
            (image, pushed)
            for pushed in self._state().images.get((campaign.kind, campaign.version), {}).values()
            if (image := self._checked.get(pushed.image)) is not None and fits(image, device_class)
        ]
        return max(found, key=lambda one: (len(one[0].classes), one[0].classes), default=None)

    def offers(self, node: str, labels: Mapping[str, str], device_class: str) -> tuple[Offer, ...]:
        """What one device should run; `labels`: with its name, region and class."""
        out = []
        for kind in Kind:
            campaign = holding(self._state().updates.values(), kind, node, labels)
            found = self._image(campaign, device_class) if campaign is not None else None
            if campaign is None or found is None:
                continue
            pushed, state = found[1], "running" if campaign.state == "done" else campaign.state
            out.append(Offer(pushed.image, pushed.signature, campaign.token, campaign.deadline_s, state))
        return tuple(out)

    def tell(self, peer: Peer, offers: tuple[Offer, ...]) -> bool:
        """Send it; False: later."""
        try:
            peer.send(UpdateOffers(offers))
        except (errors.Disconnected, errors.Overloaded) as error:
            log.info("update.not_offered", device=peer.name, error=error.text)
            return False
        return True

    def wanted(self, devices: Iterable[tuple[Mapping[str, str], str]]) -> dict[str, int]:
        """Artifacts, with their sizes (-1: unknown), that these devices (labels and class) will ask for: before the
        campaign comes to them."""
        out: dict[str, int] = {}
        open_ones = [one for one in self._state().updates.values() if one.state in {"running", "paused"}]
        for labels, device_class in devices if open_ones else ():
            for campaign in open_ones:
                if not Selector.parse(campaign.selector).matches(labels):
                    continue
                found = self._image(campaign, device_class)
                if found is not None:
                    out[found[0].digest] = found[0].size
                    if found[0].index:
                        out[found[0].index] = -1
        return out
