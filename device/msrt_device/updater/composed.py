"""A device's updater, made of the device's parts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msrt.artifacts.chunks import unpack_index
from msrt.artifacts.delta import Seed, delta_fetch, indexed_chunks, known_chunks
from msrt.artifacts.images import Image
from msrt.artifacts.store import Fetch
from msrt.artifacts.transfer import fetch_from
from msrt.errors import InvalidImage
from msrt_device.updater.quiet import Quiet
from msrt_device.updater.selftest import answering, self_test
from msrt_device.updater.shell import Means, Updater
from msrt_device.updater.slots import Slots

if TYPE_CHECKING:
    from msrt_device.worker import Device

__all__ = ["updater_of"]


def _seeds(slots: Slots) -> Mapping[bytes, Seed]:
    """Chunks of what runs now. Blocking."""
    found = slots.seed()
    if found is None:
        return {}
    with contextlib.suppress(InvalidImage):  # it was damaged, or there is none
        return indexed_chunks(unpack_index(found.chunks), found.read)
    return known_chunks(found.read, found.size)


def updater_of(device: Device, slots: Mapping[str, Slots]) -> Updater:
    """Of one device, for the kinds that it has slots for."""
    config, world, requests = device.setup.config, device.world, device.requests
    quiet = Quiet(config.update_window, config.update_idle_s, config.update_patience_s)

    def may_restart(waited_s: float) -> bool:
        training = device.jobs is not None and device.jobs.working
        busy = requests.queued > 0 or training
        return quiet.now(requests.answered, busy, waited_s, world.now(), world.wall())

    def fetch(image: Image, slots: Slots) -> Fetch:
        plain = fetch_from(device.uplink)
        if not image.index:
            return plain
        return delta_fetch(device.artifacts, device.uplink, plain, image.index, lambda: _seeds(slots))

    certificate = device.certificate
    return Updater(
        Means(
            world=world, store=world.disk.store("events"), events=device.events, artifacts=device.artifacts,
            fetch=fetch,
            vouch=device.trust.vouch,
            who=(certificate.node, certificate.name, certificate.region), device_class=device.setup.device_class,
            answering=lambda: answering(device.slots),
            test=lambda models: self_test(world, device.keeper, models, config.update_trial_s / 2),
            quiet=may_restart, changed=device.report, tries=config.update_tries, trial_s=config.update_trial_s,
        ),
        slots,
    )  # fmt: skip
