"""A device on a real machine: its state directory, membership, trainer processes, metrics."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import click

from msrt.errors import NotEnrolled
from msrt.heap import give_back
from msrt.joining import admit
from msrt.life import live, tell
from msrt.process import StateDir, default_state
from msrt.settings import DeviceConfig
from msrt.statedir import GONE
from msrt.telemetry import logs
from msrt.telemetry.metrics import Metrics
from msrt.training.tails import Tails
from msrt_device.exposing import expose, listen
from msrt_device.flash.identity.claim import remember_claim, settle_claim
from msrt_device.flash.identity.folder import IdentityFolder
from msrt_device.flash.identity.issued import take_issued
from msrt_device.hosts import Hosts
from msrt_device.machine import device_class, machine_memory
from msrt_device.updater.here import agent_slots, agent_version, system_slots, tryboot_slots
from msrt_device.wiping import Decommissioned, begun, decommission, decommissioned, wipe
from msrt_device.worker import Device, DeviceSetup

__all__ = ["serve"]


async def serve(config: DeviceConfig, invite: str, stop: asyncio.Event, board: IdentityFolder | None = None) -> None:
    """Join if need be, then work until told to stop. A claim in the board's identity is wiped once it is spent.

    Raises StateLocked, StateForeign, NotEnrolled, Decommissioned, and the invite errors.
    """
    logs.configure(config.log_format, config.log_level)
    folder = (Path(config.state) if config.state else default_state("device")).absolute()
    with StateDir.open(folder, "device") as state:
        if begun(folder):
            wipe(folder, board)
        if board is not None:
            take_issued(folder, board)
        try:
            world, identity, membership = await admit(
                folder,
                "device",
                invite,
                config.name,
                link=config.link,
                spending=partial(remember_claim, folder, invite),
                serial=config.serial,
            )
        except NotEnrolled:
            if not invite and decommissioned(folder):
                raise Decommissioned(f"the device in {folder} was decommissioned") from None
            raise
        (folder / GONE).unlink(missing_ok=True)
        if board is not None:
            await world.offload(settle_claim, folder, board)
        metrics = Metrics("device", identity.node, process=True)
        tails = Tails()
        hosts = None
        if find_spec("torch"):
            hosts = Hosts(world, folder, config, tails, lambda: node.uplink, identity.node)
        setup = DeviceSetup(
            identity=identity,
            membership=membership,
            config=config,
            trainer=hosts.trainer if hosts is not None else None,
            prepare=Hosts.prepare,
            clear=hosts.clear if hosts is not None else lambda _job: None,
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
                await listen(expose(metrics, lambda: node), config.metrics, state, stack)
            await live(node, stop, world, metrics, lambda: _started(node))
        if node.decommissioned:
            await world.offload(decommission, folder, board)
            raise Decommissioned("decommissioned: keys, models and state are wiped")


def _started(node: Device) -> None:
    peer = node.uplink.peer
    where = peer.node if peer is not None else "no edge"
    click.echo(f"ready {node.certificate.name} ({node.certificate.node}) at {where} over {node.setup.config.link}")
