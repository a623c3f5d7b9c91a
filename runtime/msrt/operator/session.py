"""A command's session with the cloud, under the operator identity of its state directory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from msrt.client.known import member_folder
from msrt.client.peers import Quiet
from msrt.hop import Uplink
from msrt.joining import endpoint_for, hello_of, load_member

__all__ = ["Ask", "ask", "cloud", "state_option"]

T = TypeVar("T")
WAIT_S = 5.0

state_option = click.option(
    "--state", type=click.Path(path_type=Path), default=None,
    help="Directory with the operator identity: the cloud's own, or one made by `msrt login`. "
    "Default: the cloud's on this machine, else the client's.",
)  # fmt: skip


class Ask:
    """Calls to the cloud, each waiting for the session first."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink

    async def __call__(self, method: str, timeout: float = 30.0, **params: object) -> Any:  # noqa: ASYNC109
        """Raises what the cloud answers with, Disconnected when it cannot be reached."""
        return await self._uplink.call(method, params, timeout)

    async def upload(self, path: Path) -> str:
        """Send a file to the cloud's artifact store; its digest."""
        return await self.upload_bytes(path.read_bytes())  # noqa: ASYNC240 - a command has nothing else to do

    async def upload_bytes(self, data: bytes) -> str:
        """The same for bytes at hand."""
        import hashlib  # noqa: PLC0415 - only uploads need it

        digest = hashlib.sha256(data).hexdigest()
        peer = await self._uplink.wait(WAIT_S)
        await peer.push("artifact", {"digest": digest}, data, size=len(data), digest=digest)
        return digest


@contextlib.asynccontextmanager
async def cloud(state: Path | None) -> AsyncIterator[Ask]:
    """A session with the cloud. Raises NotEnrolled; Disconnected comes from the first call."""
    world, identity, membership = await load_member(member_folder(state))
    hello = hello_of(world, identity, membership)
    uplink = Uplink(world, hello, membership.parents[:1], endpoint_for(identity, membership), Quiet(), roams=False)
    task = asyncio.get_running_loop().create_task(uplink.run())
    try:
        await uplink.wait(WAIT_S)
        yield Ask(uplink)
    finally:
        uplink.close()
        await asyncio.wait([task])  # and not the task itself: a cancellation of ours must not end here


def ask(state: Path | None, work: Callable[[Ask], Awaitable[T]]) -> T:
    """Run one command's work in a session of its own."""

    async def main() -> T:
        async with cloud(state) as session:
            return await work(session)

    return asyncio.run(main())
