"""A gateway on a real machine."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import click

from msrt.errors import InvalidConfig, NotEnrolled
from msrt.joining import admit
from msrt.life import live, tell
from msrt.process import StateDir, default_state
from msrt.settings import DeviceConfig, GatewayConfig
from msrt.statedir import GONE
from msrt.telemetry import logs
from msrt.telemetry.metrics import Metrics
from msrt_device.exposing import expose, listen
from msrt_device.gateway.counts import observe
from msrt_device.gateway.gateway import Gateway
from msrt_device.gateway.line import parse_serial
from msrt_device.wiping import Decommissioned, begun, decommission, decommissioned, wipe
from msrt_device.worker import DeviceSetup

__all__ = ["serve"]


async def serve(config: GatewayConfig, invite: str, stop: asyncio.Event) -> None:
    """Join if need be, then work until told to stop, whether the board is there or not.

    Raises InvalidConfig, StateLocked, StateForeign, NotEnrolled, Decommissioned, and the invite errors.
    """
    logs.configure(config.log_format, config.log_level)
    if bool(config.serial) == bool(config.tcp):
        raise InvalidConfig(
            "a board is at a serial port or at a TCP address", hint="give --serial or --tcp, one of them"
        )
    if config.serial:
        parse_serial(config.serial)
    folder = (Path(config.state) if config.state else default_state("gateway")).absolute()
    with StateDir.open(folder, "device") as state:
        if begun(folder):
            wipe(folder)
        try:
            world, identity, membership = await admit(folder, "device", invite, config.name, link=config.link)
        except NotEnrolled as error:
            if not invite and decommissioned(folder):
                raise Decommissioned(f"the gateway in {folder} was decommissioned") from None
            raise NotEnrolled(error.text, hint="msrt device gateway --invite INVITE (msrt invite device)") from error
        (folder / GONE).unlink(missing_ok=True)
        setup = DeviceSetup(
            identity=identity, membership=membership, config=_as_device(config), tell=tell(folder, config)
        )
        node = Gateway(world, setup, config)
        metrics = Metrics("gateway", identity.node, process=True)
        observe(metrics, node.counts)

        def started() -> None:
            device = node.device
            if device is not None:
                where = device.uplink.peer.node if device.uplink.peer is not None else "no edge"
                click.echo(f"ready {device.certificate.name} ({device.certificate.node}) at {where} over {config.link}")

        async with contextlib.AsyncExitStack() as stack:
            if config.metrics != "off":
                await listen(expose(metrics, lambda: node.device), config.metrics, state, stack)
            await live(node, stop, world, metrics, started)
        if node.decommissioned:
            await world.offload(decommission, folder)
            raise Decommissioned("decommissioned: keys, models and state are wiped, and the board's model is gone")


def _as_device(config: GatewayConfig) -> DeviceConfig:
    """The part of it that a device has as well."""
    return DeviceConfig(
        state=config.state, name=config.name, log_format=config.log_format, log_level=config.log_level,
        drain_s=config.drain_s, cache_bytes=config.cache_bytes, link=config.link, labels=config.labels,
        engine_queue=config.engine_queue, reconnect_max_s=config.reconnect_max_s, home_s=config.home_s,
        event_bytes=config.event_bytes, train=False, metrics=config.metrics,
    )  # fmt: skip
