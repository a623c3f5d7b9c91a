"""An edge on a real machine: its state directory, membership, listeners, broker, HTTP front, webhook."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import click
import msgspec
import structlog

from msrt import errors
from msrt.joining import admit
from msrt.life import live, tell
from msrt.links.broker import Broker
from msrt.links.link import Credentials
from msrt.process import StateDir, default_state
from msrt.protocol.messages import Parent
from msrt.serving.front import Front, open_front
from msrt.settings import EdgeConfig
from msrt.telemetry import logs
from msrt.telemetry.metrics import Metrics
from msrt.telemetry.seeing import seen
from msrt.trust.identity import Identity
from msrt.world.world import World
from msrt_edge.front import EdgeFront
from msrt_edge.master import Edge, EdgeSetup
from msrt_edge.observe import observe
from msrt_edge.repository import EdgeModels
from msrt_edge.webhook import Webhook

__all__ = ["serve"]

log = structlog.get_logger()


async def serve(config: EdgeConfig, invite: str, stop: asyncio.Event) -> None:
    """Join if need be, then run the edge until told to stop.

    Raises StateLocked, StateForeign, PortInUse, BrokerFailed, NotEnrolled, and the invite errors.
    """
    logs.configure(config.log_format, config.log_level)
    folder = (Path(config.state) if config.state else default_state("edge")).absolute()
    with StateDir.open(folder, "edge") as state:
        world, identity, membership = await admit(folder, "edge", invite, config.name)
        state.adopt(membership.parents[0].node)
        async with contextlib.AsyncExitStack() as stack:
            listen, address, accounts = await _listeners(world, identity, state, config, folder, stack)
            metrics = Metrics("edge", identity.node, process=True)
            tracer, record = await stack.enter_async_context(
                seen(config, world, folder, metrics, "edge", identity.node, membership.name, region=membership.region)
            )
            setup = EdgeSetup(
                identity=identity, membership=membership, listen=listen, config=config, address=address,
                tell=tell(folder, config), accounts=accounts, metrics=metrics, tracer=tracer, record=record,
            )  # fmt: skip
            node = Edge(world, setup)
            observe(node)
            front = await open_front(
                EdgeFront(node), state, config, world, lambda: node.follower.state.api_keys,
                models=EdgeModels(node), deadline_s=config.request_deadline_s, metrics=metrics,
            )  # fmt: skip
            stack.push_async_callback(front.close)
            node.address = msgspec.structs.replace(node.address, http=front.address, http_fingerprint=front.fingerprint)
            if node.events.hook is not None:
                hook = asyncio.ensure_future(Webhook(world, node.events, config).run())
                stack.callback(hook.cancel)
            await live(node, stop, world, metrics, lambda: _started(node, state, front))


async def _listeners(
    world: World,
    identity: Identity,
    state: StateDir,
    config: EdgeConfig,
    folder: Path,
    stack: contextlib.AsyncExitStack,
) -> tuple[list[tuple[str, Credentials]], Parent, Any]:
    """URLs to listen on, what is known of our addresses, and who is told of MQTT accounts."""
    host, port = state.address("listen", config.listen)
    listen = [(f"tcp://{host}:{port}", Credentials(secret_key=identity.link_secret))]
    address = Parent(identity.node)
    if config.mqtt_url:
        own = Credentials(
            username=config.mqtt_username, password=config.mqtt_password, fingerprint=config.mqtt_fingerprint,
            master=identity.node,
        )  # fmt: skip
        listen.append((config.mqtt_url, own))
        return (
            listen,
            msgspec.structs.replace(address, mqtt_fingerprint=config.mqtt_fingerprint),
            lambda _accounts: None,
        )
    if config.mqtt_broker == "none":
        return listen, address, lambda _accounts: None
    mqtt_host, mqtt_port = state.address("mqtt", config.mqtt)
    scheme = "mqtt" if mqtt_host in ("127.0.0.1", "localhost", "::1") else "mqtts"
    engine = "" if config.mqtt_broker == "auto" else config.mqtt_broker
    broker = Broker(
        world, folder / "broker", master=identity.node, listen=f"{scheme}://{mqtt_host}:{mqtt_port}", engine=engine
    )
    try:
        await broker.start()
    except errors.BrokerFailed as error:
        if config.mqtt or config.mqtt_broker != "auto":
            raise
        log.warning("edge.no_mqtt", error=errors.words_of(error))
        return listen, address, lambda _accounts: None
    stack.push_async_callback(broker.close)
    state.remember("mqtt", int(broker.address.rpartition(":")[2]))
    listen.append((broker.local_address, broker.credentials()))
    address = msgspec.structs.replace(address, mqtt_fingerprint=broker.fingerprint)
    return listen, address, _Accounts(broker)


class _Accounts:
    """Keeps the broker's users what the journal says; the newest wish wins."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._wanted: dict[str, str] | None = None
        self._task: asyncio.Task[None] | None = None

    def __call__(self, accounts: dict[str, str]) -> None:
        self._wanted = dict(accounts)
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        try:
            while self._wanted is not None:
                wanted, self._wanted = self._wanted, None
                try:
                    await self._broker.replace_users(wanted)
                except errors.LocalError as error:
                    log.warning("broker.users_not_written", error=errors.words_of(error))
        finally:
            self._task = None


def _started(node: Edge, state: StateDir, front: Front) -> None:
    state.remember("listen", int(node.address.zmq.rpartition(":")[2]))
    click.echo(f"edge {node.certificate.name} ({node.node}) region {node.region}")
    click.echo(f"  zmq        {node.address.zmq}")
    click.echo(f"  mqtt       {node.address.mqtt or '-'}")
    click.echo("\n".join(front.lines()))
    click.echo("ready")
