"""The cloud on a real machine: state directory, keys, listeners, child processes, and the operator it comes with."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import msgspec

from msrt import errors
from msrt.joining import Membership, new_member
from msrt.life import live, tell
from msrt.links.link import Credentials
from msrt.process import StateDir, default_state
from msrt.protocol.messages import Parent
from msrt.serving.front import Front, open_front
from msrt.settings import CloudConfig
from msrt.telemetry import logs
from msrt.telemetry.links import link_bytes
from msrt.telemetry.metrics import Metrics
from msrt.telemetry.seeing import seen
from msrt.telemetry.serving import shown
from msrt.training.forks import ForkServer
from msrt.training.host import TrainerHost
from msrt.training.tails import Tails
from msrt.trust.api_keys import KeyBook
from msrt.trust.certificate import Certificate, issue
from msrt.trust.identity import Identity
from msrt.trust.roles import Role
from msrt.world.world import World
from msrt_cloud.front import CloudFront
from msrt_cloud.master import Cloud, CloudSetup
from msrt_cloud.observe import observe
from msrt_cloud.prepare import prepare
from msrt_cloud.repository import CloudModels
from msrt_cloud.signing import FolderRing

__all__ = ["serve"]


async def serve(config: CloudConfig, stop: asyncio.Event) -> None:
    """Run the cloud until told to stop. Raises StateLocked, StateForeign, StateNewer, PortInUse."""
    logs.configure(config.log_format, config.log_level)
    folder = (Path(config.state) if config.state else default_state("cloud")).absolute()
    with StateDir.open(folder, "cloud") as state:
        world, identity = new_member(folder)
        state.adopt(identity.node)
        host, port = state.address("listen", config.listen)
        metrics = Metrics("cloud", identity.node, process=True)
        async with seen(config, world, folder, metrics, "cloud", identity.node, "cloud") as (tracer, record):
            tails = Tails()
            forks = ForkServer.lasting(config.train_forkserver_s)
            setup = CloudSetup(
                identity=identity,
                listen=[(f"tcp://{host}:{port}", Credentials(secret_key=identity.link_secret))],
                prepare=lambda path, out, options: prepare(path, out, options, deadline_s=config.quantise_timeout_s),
                workshop=lambda job: TrainerHost(world, folder / "jobs" / job, config.data, tails.of(job), forks),
                tails=tails,
                keys=FolderRing(folder / "keys"),
                config=config,
                tell=tell(folder, config),
                metrics=metrics,
                tracer=tracer,
                record=record,
            )
            node = Cloud(world, setup)
            observe(node)
            metrics.text(lambda: shown(node.serving.tally)() if node.ready.is_set() else b"")
            metrics.tally(
                "link_bytes_total", "Bytes of packets.", ("link", "direction"), lambda: link_bytes(node.downlink.links)
            )
            metrics.tally(
                "refused_total",
                "Packets that were no messages, or not allowed.",
                (),
                lambda: {(): node.downlink.refused},
            )
            metrics.tally(
                "dropped_total", "Thrown away by a queue's stated policy.", ("queue",),
                lambda: {("events",): node.events.dropped},
            )  # fmt: skip
            front = await open_front(
                CloudFront(node), state, config, world, lambda: _keys(node), models=CloudModels(node), metrics=metrics
            )
            node.address = msgspec.structs.replace(node.address, http=front.address, http_fingerprint=front.fingerprint)
            try:
                await live(node, stop, world, metrics, lambda: _started(node, state, config, folder, front))
            finally:
                await front.close()
                if forks is not None:
                    await forks.close()


def _keys(node: Cloud) -> KeyBook:
    if not node.ready.is_set():
        raise errors.Unavailable("the cloud is starting")
    return node.writer.state.api_keys


def _started(node: Cloud, state: StateDir, config: CloudConfig, folder: Path, front: Front) -> None:
    address = node.address
    if config.advertise:
        port = address.zmq.rpartition(":")[2]
        node.address = address = msgspec.structs.replace(address, zmq=f"tcp://{config.advertise}:{port}")
    state.remember("listen", int(address.zmq.rpartition(":")[2]))
    fresh = _operator(node.world, node.identity, folder / "operator", address)
    click.echo(f"cloud {node.identity.node}")
    click.echo(f"  listens on {address.zmq}")
    click.echo("\n".join(front.lines()))
    click.echo(f"  state      {folder}")
    if fresh:
        where = f" --state {folder}" if config.state else ""
        click.echo("To join an edge, and then devices:")
        click.echo(f"  msrt edge join $(msrt invite edge --region north{where})")
        click.echo(f"  msrt device join $(msrt invite device --region north{where})")
    click.echo("ready")


def _operator(world: World, cloud: Identity, folder: Path, address: Parent) -> bool:
    """The operator identity that commands on this machine use; made at the first start, its address kept fresh."""
    own_world, identity = new_member(folder)
    store = own_world.disk.store("node")
    known = Membership.load(store)
    certificate = Certificate(
        node=identity.node, role=Role.OPERATOR, name="operator", identity=identity.public,
        link_key=identity.link_public, issued=world.wall(),
    )  # fmt: skip
    membership = Membership(
        certificate=known.certificate if known else issue(cloud, certificate), cloud_identity=cloud.public,
        parents=(address,), name="operator", role=Role.OPERATOR, region="",
    )  # fmt: skip
    if membership != known:
        membership.save_now(store)
    return known is None
