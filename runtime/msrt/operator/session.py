"""A command's session with the cloud, under the operator identity of its state directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from msrt import errors
from msrt.artifacts.pieces import hash_file
from msrt.artifacts.transfer import ARTIFACT
from msrt.buffers import Buffer
from msrt.client.known import load_caller
from msrt.client.peers import Quiet
from msrt.hop import Uplink
from msrt.joining import endpoint_for, hello_of
from msrt.telemetry import logs

__all__ = ["Ask", "ask", "cloud", "patient", "run", "state_option"]

T = TypeVar("T")
WAIT_S = 5.0
AWAY_S = 600.0
"""How long the cloud may be away from a command that watches."""
PUSH_S = 30.0
"""The same, from one that sends a job."""
NOTICED_S = 2.0
"""The same, before anybody is told: a session that is renewed is not worth a word."""
AWAY = (errors.Disconnected, errors.StaleEpoch)
"""What a session ends with whose cloud went away, or gave up its lease for a while: the next one is made already."""

state_option = click.option(
    "--state", type=click.Path(path_type=Path), default=None, metavar="DIR",
    help="Directory with the operator identity: the cloud's own, or one made by `msrt login`. "
    "Default: the cloud's on this machine, else the client's.",
)  # fmt: skip


class Ask:
    """Calls to the cloud, each waiting for the session first."""

    def __init__(self, uplink: Uplink, offload: Callable[..., Awaitable[Any]]) -> None:
        self._uplink, self._offload = uplink, offload

    async def __call__(self, method: str, timeout: float = 30.0, /, **params: object) -> Any:  # noqa: ASYNC109
        """Raises what the cloud answers with, Disconnected when it cannot be reached."""
        return await self._uplink.call(method, params, timeout)

    async def here(self, within_s: float) -> bool:
        """Is there a session, or one within so many seconds?"""
        try:
            await self._uplink.wait(within_s)
        except errors.MsrtError:
            return False
        return True

    async def upload(self, path: Path) -> str:
        """Send a file to the cloud's artifact store; its digest. A cloud that is away meanwhile is waited for: what
        came of it before stays there."""
        digest, size = await self._offload(hash_file, path)
        opened = await self._offload(path.open, "rb")
        with opened:

            async def read(offset: int, count: int) -> Buffer:
                piece: bytes = await self._offload(os.pread, opened.fileno(), count, offset)
                return piece

            loop = asyncio.get_running_loop()
            until = loop.time() + AWAY_S
            while True:
                peer = await self._uplink.wait(AWAY_S)
                try:
                    await peer.push(ARTIFACT, {"digest": digest}, read, size=size, digest=digest)
                except AWAY:
                    if loop.time() > until:
                        raise
                else:
                    return str(digest)

    async def upload_bytes(self, data: Buffer) -> str:
        """The same for bytes at hand."""
        import hashlib  # noqa: PLC0415 - only uploads need it

        digest = hashlib.sha256(data).hexdigest()
        loop = asyncio.get_running_loop()
        until = loop.time() + PUSH_S
        while True:
            peer = await self._uplink.wait(WAIT_S)
            try:
                await peer.push(ARTIFACT, {"digest": digest}, data, size=len(data), digest=digest)
            except AWAY:
                if loop.time() > until:
                    raise
            else:
                return digest


async def patient(cloud: Ask, method: str, within_s: float = 30.0, /, **params: object) -> Any:
    """Ask what may be asked twice, over a restart of the cloud: for 10 minutes, or until somebody presses Ctrl-C. That
    it waits is said once, on standard error.
    """
    loop = asyncio.get_running_loop()
    until, told = loop.time() + AWAY_S, False
    while True:
        if not told and not await cloud.here(NOTICED_S):  # a call waits for the session as well, and says nothing
            told = True
            click.echo(f"the cloud is away: waiting for it, for {AWAY_S / 60:g} minutes at most", err=True)
        try:
            found = await cloud(method, within_s, **params)
        except (*AWAY, errors.DeadlineExceeded):
            if loop.time() > until:
                raise
            await asyncio.sleep(0.2)
        else:
            if told:
                click.echo("the cloud is back", err=True)
            return found


@contextlib.asynccontextmanager
async def cloud(state: Path | None) -> AsyncIterator[Ask]:
    """A session with the cloud. Raises NotEnrolled; Disconnected comes from the first call."""
    world, identity, membership = await load_caller(state)
    hello = hello_of(world, identity, membership)
    uplink = Uplink(world, hello, membership.parents[:1], endpoint_for(identity, membership), Quiet(), roams=False)
    task = asyncio.get_running_loop().create_task(uplink.run())
    try:
        await uplink.wait(WAIT_S)
        yield Ask(uplink, world.offload)
    finally:
        uplink.close()
        await asyncio.wait([task])  # and not the task itself: a cancellation of ours must not end here


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work. What goes wrong is its error, one sentence, and not a log on top of it."""
    logs.configure("console", "error")
    return asyncio.run(work)


def ask(state: Path | None, work: Callable[[Ask], Awaitable[T]]) -> T:
    """Run one command's work in a session of its own."""

    async def main() -> T:
        async with cloud(state) as session:
            return await work(session)

    return run(main())
