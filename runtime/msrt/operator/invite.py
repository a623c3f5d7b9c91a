"""`msrt invite` and `msrt login`."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import click

from msrt import errors
from msrt.joining import join, new_member
from msrt.operator.session import ask, state_option
from msrt.operator.show import console
from msrt.process import default_state
from msrt.protocol.address import check_name, parse_labels
from msrt.trust.invite import Invite

__all__ = ["invite", "login"]


def _create(state: Path | None, role: str, region: str, labels: tuple[str, ...], hours: float) -> None:
    params: dict[str, object] = {
        "role": role, "region": region, "labels": parse_labels(list(labels)), "ttl_s": hours * 3600
    }  # fmt: skip
    found = ask(state, lambda cloud: cloud("invite.create", 30.0, **params))
    click.echo(found["invite"])


_hours = click.option("--hours", default=24.0, show_default=True, help="How long it may be used.")


@click.group()
def invite() -> None:
    """Make a one-time invite: one string, alone on standard output."""


@invite.command()
@click.option("--region", required=True, help="The region this edge serves.")
@_hours
@state_option
def edge(state: Path | None, region: str, hours: float) -> None:
    """For `msrt edge join`."""
    _create(state, "edge", region, (), hours)


@invite.command()
@click.option("--region", default="", help="Join at an edge of this region. Default: any edge.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="A label of the device; may be repeated.")
@_hours
@state_option
def device(state: Path | None, region: str, labels: tuple[str, ...], hours: float) -> None:
    """For `msrt device join`."""
    _create(state, "device", region, labels, hours)


@invite.command()
@_hours
@state_option
def client(state: Path | None, hours: float) -> None:
    """For `msrt login`: may ask for inference."""
    _create(state, "client", "", (), hours)


@invite.command()
@_hours
@state_option
def operator(state: Path | None, hours: float) -> None:
    """For `msrt login`: may do everything the command line can."""
    _create(state, "operator", "", (), hours)


@click.command()
@click.argument("text", metavar="INVITE")
@click.option("--name", default="", help="Name of this client. Default: the host's.")
@state_option
def login(state: Path | None, text: str, name: str) -> None:
    """Spend a client or operator INVITE and keep the identity, which later commands use."""
    folder = state or default_state("client")

    async def work() -> str:
        world, identity = new_member(folder)
        invited = Invite.parse(text, world.wall())
        if invited.role not in ("client", "operator"):
            raise errors.CallerError(
                f"this invite is for a node of role {invited.role}", hint=f"use it with: msrt {invited.role} join"
            )
        membership = await join(world, identity, invited, check_name(name or _default_name(identity.node)))
        await membership.save(world, world.disk.store("node"))
        return f"logged in as {membership.role} {membership.name}; the identity is in {folder}"

    console().print(asyncio.run(work()))


def _default_name(node: str) -> str:
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname().lower()).strip("-") or "client"
    return f"{host[:40]}-{node[:6]}"
