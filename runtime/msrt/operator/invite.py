"""`msrt invite` and `msrt login`."""

from __future__ import annotations

from pathlib import Path

import click

from msrt import errors
from msrt.joining import join, new_member
from msrt.life import default_name
from msrt.operator.session import ask, run, state_option
from msrt.operator.show import console
from msrt.process import StateDir, default_state
from msrt.protocol.address import parse_labels
from msrt.trust.invite import Invite
from msrt.trust.roles import Role

__all__ = ["invite", "login"]


def _create(state: Path | None, role: str, region: str, labels: tuple[str, ...], hours: float) -> None:
    params: dict[str, object] = {
        "role": role, "region": region, "labels": parse_labels(list(labels)), "ttl_s": hours * 3600
    }  # fmt: skip
    found = ask(state, lambda cloud: cloud("invite.create", 30.0, **params))
    click.echo(found["invite"])


_hours = click.option(
    "--hours", default=0.0, help="How long it may be used. Default: the cloud's setting, a day unless changed."
)


@click.group()
def invite() -> None:
    """Make a one-time invite: one string, alone on standard output."""


@invite.command()
@click.option("--region", required=True, help="The region this edge serves.")
@_hours
@state_option
def edge(state: Path | None, region: str, hours: float) -> None:
    """For an edge: hand it to `msrt edge join` on the edge's machine."""
    _create(state, "edge", region, (), hours)


@invite.command()
@click.option("--region", default="", help="Join at an edge of this region. Default: any edge.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="A label of the device; may be repeated.")
@_hours
@state_option
def device(state: Path | None, region: str, labels: tuple[str, ...], hours: float) -> None:
    """For a device: hand it to `msrt device join` on the device."""
    _create(state, "device", region, labels, hours)


@invite.command()
@_hours
@state_option
def client(state: Path | None, hours: float) -> None:
    """For an application: `msrt login` with it, then ask for inference."""
    _create(state, "client", "", (), hours)


@invite.command()
@_hours
@state_option
def operator(state: Path | None, hours: float) -> None:
    """For another machine's command line: `msrt login` with it, then operate."""
    _create(state, "operator", "", (), hours)


@click.command()
@click.argument("text", metavar="INVITE")
@click.option("--name", default="", help="Name of this client. Default: the host's.")
@state_option
def login(state: Path | None, text: str, name: str) -> None:
    """Spend a client or operator INVITE and keep the identity.

    Later commands and msrt.connect use it.
    Without --state it is kept where they look for it: on a machine without a cloud they need no --state either.
    """
    folder = state or default_state("client")

    async def work() -> str:
        with StateDir.open(folder, "client") as held:
            world, identity = new_member(folder)
            invited = Invite.parse(text, world.wall())
            if invited.role not in (Role.CLIENT, Role.OPERATOR):
                raise errors.CallerError(
                    f"this invite is for a node of role {invited.role}", hint=f"use it with: msrt {invited.role} join"
                )
            membership = await join(world, identity, invited, default_name(name, identity.node))
            held.adopt(membership.parents[0].node)
            membership.save_now(world.disk.store("node"))
        return f"logged in as {membership.role} {membership.name}; the identity is in {folder}"

    console().print(run(work()))
