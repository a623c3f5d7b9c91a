"""What a device says of itself: numbers for `msrt status`, and all that helps from afar for `msrt node diagnose`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from msrt.protocol.messages import ModelState
    from msrt_device.worker import Device

__all__ = ["diagnosis", "sources", "values"]

MOST: Final = 50
"""Models that are told."""


def values(device: Device) -> dict[str, float]:
    """Numbers."""
    requests, sequences, events = device.requests, device.sequences, device.events
    return {
        "answered": float(requests.answered), "refused": float(requests.refused),
        "expired": float(requests.expired), "abandoned": float(requests.abandoned),
        "queued": float(requests.queued), "sequences": float(len(sequences)),
        "model_memory": float(device.budget.used(device.slots)),
        "sequences_lost": float(sequences.lost), "sequences_evicted": float(sequences.evicted),
        "events_waiting": float(len(events.outbox)), "events_dropped": float(events.outbox.dropped),
        **device.trust.values(), "drift": max((watch.meter.value for watch in device.watches), default=0.0),
        "source_failures": float(sum(watch.failures for watch in device.watches)),
        "training": float(device.jobs is not None and device.jobs.working),
    }  # fmt: skip


def sources(device: Device) -> dict[str, str]:
    """Source to how it fares."""
    return {source.name: watch.state for source, watch in zip(device.setup.config.source, device.watches, strict=True)}


def diagnosis(device: Device, params: dict[str, object]) -> dict[str, Any]:
    """Bounded: it fits every link. `wall`, the caller's clock, is compared with ours."""
    peer, asked, certificate = device.uplink.peer, params.get("wall"), device.certificate
    found: dict[str, Any] = {
        "name": certificate.name, "agent": device.setup.agent, "class": device.setup.device_class,
        "region": certificate.region, "wall": device.world.wall(),
        **({"clock_offset_s": device.world.wall() - asked} if isinstance(asked, float | int) else {}),
        "edge": peer.node if peer is not None else "",
        "link": peer.link.address if peer is not None and peer.link is not None else "",
        "parents": [parent.zmq or parent.mqtt for parent in device.uplink.parents],
        "updates": [msgspec.to_builtins(state) for state in device.updater.states()],
        "models": list(map(_model, device.slots.reports()[:MOST])),
    }  # fmt: skip
    return {**values(device), **found, **dict(device.setup.tell("diagnose") or {}), "sources": sources(device)}


def _model(model: ModelState) -> str:
    state = "cold" if model.cold else model.state
    return f"{model.model}@{model.version} {model.variant} {state} {model.error}".rstrip()
