"""A device on a real machine: its state directory, membership, trainer processes, metrics."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import click

from msrt.inference.heap import give_back
from msrt.joining import admit
from msrt.life import live, tell
from msrt.process import StateDir, default_state
from msrt.settings import DeviceConfig
from msrt.telemetry import logs
from msrt.telemetry.links import link_bytes
from msrt.telemetry.metrics import Metrics
from msrt.training.tails import Tails
from msrt_device.flash.identity.claim import remember_claim, settle_claim
from msrt_device.flash.identity.folder import IdentityFolder
from msrt_device.flash.identity.issued import take_issued
from msrt_device.hosts import Hosts
from msrt_device.updater.here import agent_slots, agent_version, system_slots, tryboot_slots
from msrt_device.wiping import begun, wipe
from msrt_device.worker import Device, DeviceSetup, device_class, machine_memory

__all__ = ["serve"]


async def serve(config: DeviceConfig, invite: str, stop: asyncio.Event, board: IdentityFolder | None = None) -> None:
    """Join if need be, then work until told to stop. A claim in the board's identity is wiped once it is spent.

    Raises StateLocked, StateForeign, NotEnrolled, and the invite errors.
    """
    logs.configure(config.log_format, config.log_level)
    folder = (Path(config.state) if config.state else default_state("device")).absolute()
    with StateDir.open(folder, "device") as state:
        if begun(folder):
            wipe(folder, board)
        if board is not None:
            take_issued(folder, board)
        world, identity, membership = await admit(
            folder,
            "device",
            invite,
            config.name,
            link=config.link,
            spending=partial(remember_claim, folder, invite),
            serial=config.serial,
        )
        if board is not None:
            await world.offload(settle_claim, folder, board)
        metrics = Metrics("device", identity.node, process=True)
        tails = Tails()
        hosts = Hosts(world, folder, config, tails, lambda: node.uplink) if find_spec("torch") else None
        setup = DeviceSetup(
            identity=identity,
            membership=membership,
            config=config,
            trainer=hosts.trainer if hosts is not None else None,
            prepare=Hosts.prepare,
            tidy=give_back,
            device_class=device_class(),
            serial=config.serial,
            model_memory=machine_memory() // 2,
            tell=tell(folder, config),
            tails=tails,
            slots={**agent_slots(stop.set), **system_slots(), **tryboot_slots()},
            agent=agent_version(),
        )
        node = Device(world, setup)
        async with contextlib.AsyncExitStack() as stack:
            if hosts is not None:
                stack.push_async_callback(hosts.close)
            if config.metrics != "off":
                await _metrics(node, metrics, state, config, stack)
            await live(node, stop, world, metrics, lambda: _started(node))
        if node.decommissioned:
            await world.offload(wipe, folder, board)
            click.echo("decommissioned: keys, models and state are wiped")


async def _metrics(
    node: Device, metrics: Metrics, state: StateDir, config: DeviceConfig, stack: contextlib.AsyncExitStack
) -> None:
    from msrt.telemetry.exporter import serve_metrics  # noqa: PLC0415 - only where metrics are on
    from msrt.telemetry.trusting import observe_trust  # noqa: PLC0415

    observe_trust(metrics, lambda: node.trust)

    def render() -> bytes:
        for model in node.slots.reports():
            metrics.model_version.labels(model.model, model.variant).set(model.version if model.state == "ready" else 0)
        metrics.queue_depth.labels("engine").set(node.requests.queued)
        metrics.event_backlog.set(node.events.outbox.size)
        return metrics.render()

    metrics.tally(
        "engine_requests_total", "Inference requests of this device.", ("code",),
        lambda: {
            ("ok",): node.requests.answered, ("refused",): node.requests.refused, ("expired",): node.requests.expired,
            ("abandoned",): node.requests.abandoned,
        },
    )  # fmt: skip
    metrics.tally(
        "link_bytes_total", "Bytes of packets of the present session.", ("link", "direction"),
        lambda: link_bytes([node.uplink.peer.link] if node.uplink.peer and node.uplink.peer.link else []),
    )  # fmt: skip
    metrics.tally(
        "dropped_total", "Thrown away by a queue's stated policy.", ("queue",),
        lambda: {("events",): node.events.outbox.dropped},
    )  # fmt: skip
    metrics.gauges(
        "models", "Models by state.", ("state",),
        lambda: Counter(("cold" if model.cold else model.state,) for model in node.slots.reports()),
    )  # fmt: skip
    metrics.gauges(
        "model_memory_bytes", "Bytes of loaded models, estimated, and what they may take; a limit of 0 is none.",
        ("what",),
        lambda: {("used",): node.budget.used(node.slots), ("limit",): node.budget.limit},
    )  # fmt: skip
    metrics.gauges("kept_sequences", "Sequences whose state is kept.", (), lambda: {(): len(node.sequences)})
    metrics.tally(
        "sequences_ended_total", "Sequences whose state was lost, or made room.", ("reason",),
        lambda: {("lost",): node.sequences.lost, ("evicted",): node.sequences.evicted},
    )  # fmt: skip
    host, port = state.address("metrics", config.metrics)
    server = await serve_metrics(render, host, port)
    stack.callback(server.close)
    state.remember("metrics", server.sockets[0].getsockname()[1])


def _started(node: Device) -> None:
    peer = node.uplink.peer
    where = peer.node if peer is not None else "no edge"
    click.echo(f"ready {node.certificate.name} ({node.certificate.node}) at {where} over {node.setup.config.link}")
