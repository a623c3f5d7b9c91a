"""What a device counts, at `GET /metrics`."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from msrt.process import StateDir
from msrt.telemetry.exporter import serve_metrics
from msrt.telemetry.links import link_bytes
from msrt.telemetry.metrics import Metrics, Tally
from msrt.telemetry.trusting import observe_trust

if TYPE_CHECKING:
    from msrt_device.worker import Device

__all__ = ["expose", "listen"]


async def listen(render: Callable[[], bytes], address: str, state: StateDir, stack: contextlib.AsyncExitStack) -> None:
    """Serve it at `metrics = address` until the stack ends. Raises PortInUse, LocalError."""
    server = await serve_metrics(render, *state.address("metrics", address))
    stack.callback(server.close)
    state.remember("metrics", server.sockets[0].getsockname()[1])


def expose(metrics: Metrics, find: Callable[[], Device | None]) -> Callable[[], bytes]:
    """Register a device's numbers; what renders the page. `find`: the device, None while there is none."""
    observe_trust(metrics, lambda: device.trust if (device := find()) is not None else None)

    def of(read: Callable[[Device], Tally]) -> Callable[[], Tally]:
        return lambda: read(device) if (device := find()) is not None else {}

    metrics.tally("engine_requests_total", "Inference requests of this device.", ("code",), of(_requests))
    metrics.tally("link_bytes_total", "Bytes of packets of the present session.", ("link", "direction"), of(_link))
    metrics.tally(
        "dropped_total", "Thrown away by a queue's stated policy.", ("queue",),
        of(lambda device: {("events",): device.events.outbox.dropped}),
    )  # fmt: skip
    metrics.gauges("models", "Models by state.", ("state",), of(_models))
    metrics.gauges(
        "model_memory_bytes", "Bytes of loaded models, estimated, and what they may take; a limit of 0 is none.",
        ("what",),
        of(lambda device: {("used",): device.budget.used(device.slots), ("limit",): device.budget.limit}),
    )  # fmt: skip
    metrics.gauges(
        "kept_sequences", "Sequences whose state is kept.", (), of(lambda device: {(): len(device.sequences)})
    )
    metrics.tally(
        "sequences_ended_total", "Sequences whose state was lost, or made room.", ("reason",),
        of(lambda device: {("lost",): device.sequences.lost, ("evicted",): device.sequences.evicted}),
    )  # fmt: skip

    def render() -> bytes:
        if (device := find()) is not None:
            _watched(metrics, device)
        return metrics.render()

    return render


def _watched(metrics: Metrics, device: Device) -> None:
    for model in device.slots.reports():
        metrics.model_version.labels(model.model, model.variant).set(model.version if model.state == "ready" else 0)
    metrics.queue_depth.labels("engine").set(device.requests.queued)
    metrics.event_backlog.set(device.events.outbox.size)


def _requests(device: Device) -> Tally:
    requests = device.requests
    return {
        ("ok",): requests.answered, ("refused",): requests.refused, ("expired",): requests.expired,
        ("abandoned",): requests.abandoned,
    }  # fmt: skip


def _link(device: Device) -> Tally:
    peer = device.uplink.peer
    return link_bytes([peer.link] if peer is not None and peer.link is not None else [])


def _models(device: Device) -> Tally:
    return Counter(("cold" if model.cold else model.state,) for model in device.slots.reports())
