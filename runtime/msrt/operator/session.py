"""A command's session with the cloud, under the operator identity of its state directory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from msrt import errors
from msrt.hop import Peer, StreamSink, Uplink
from msrt.joining import endpoint_for, hello_of, load_member
from msrt.links.link import Buffer
from msrt.process import default_state
from msrt.protocol.messages import Message, StreamOpen

__all__ = ["Ask", "ask", "cloud", "member_folder", "state_option"]

T = TypeVar("T")
WAIT_S = 5.0

state_option = click.option(
    "--state", type=click.Path(path_type=Path), default=None,
    help="Directory with the operator identity: the cloud's own, or one made by `msrt login`. "
    "Default: the cloud's on this machine, else the client's.",
)  # fmt: skip


class _Quiet:
    """A client hears nothing unasked."""

    def joined(self, peer: Peer) -> None:
        """The session is live."""

    def left(self, peer: Peer, error: Exception | None, *, final: bool) -> None:
        """The session is gone; calls fail by themselves."""

    def message(self, peer: Peer, message: Message, frames: list[Buffer]) -> None:
        """Nothing is sent to clients but answers."""

    async def called(self, _peer: Peer, method: str, _params: dict[str, object]) -> object:
        raise errors.Forbidden(f"a client does not answer {method}")

    def stream(self, _peer: Peer, opened: StreamOpen) -> StreamSink:
        raise errors.Forbidden(f"a client takes no stream {opened.kind}")

    async def stored(self, _peer: Peer, _messages: list[Message]) -> None:
        raise errors.Forbidden("a client keeps nothing")


class Ask:
    """Calls to the cloud, each waiting for the session first."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink

    async def __call__(self, method: str, timeout: float = 30.0, **params: object) -> Any:  # noqa: ASYNC109
        """Raises what the cloud answers with, Disconnected when it cannot be reached."""
        return await self._uplink.call(method, params, timeout)

    async def upload(self, path: Path) -> str:
        """Send a file to the cloud's artifact store; its digest."""
        data = path.read_bytes()
        return await self.upload_bytes(data)

    async def upload_bytes(self, data: bytes) -> str:
        """The same for bytes at hand."""
        import hashlib  # noqa: PLC0415 - only uploads need it

        digest = hashlib.sha256(data).hexdigest()
        peer = await self._uplink.wait(WAIT_S)
        await peer.push("artifact", {"digest": digest}, data, size=len(data), digest=digest)
        return digest


def member_folder(state: Path | None) -> Path:
    """Where the identity lies: STATE/operator for a cloud's state, STATE itself for one made by `msrt login`.

    Raises NotEnrolled when there is none.
    """
    candidates = [state] if state else [default_state("cloud"), default_state("client")]
    for folder in candidates:
        for found in (folder / "operator", folder):
            if (found / "identity.json").exists() and not (found / "operator").exists():
                return found
    raise errors.NotEnrolled(
        f"no identity in {' or '.join(str(c) for c in candidates)}",
        hint="run this where the cloud runs, name its directory with --state, or log in: msrt login INVITE",
    )


@contextlib.asynccontextmanager
async def cloud(state: Path | None) -> AsyncIterator[Ask]:
    """A session with the cloud. Raises NotEnrolled; Disconnected comes from the first call."""
    world, identity, membership = await load_member(member_folder(state))
    hello = hello_of(world, identity, membership)
    uplink = Uplink(world, hello, membership.parents[:1], endpoint_for(identity, membership), _Quiet())
    task = asyncio.get_running_loop().create_task(uplink.run())
    try:
        await uplink.wait(WAIT_S)
        yield Ask(uplink)
    finally:
        uplink.close()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def ask(state: Path | None, work: Callable[[Ask], Awaitable[T]]) -> T:
    """Run one command's work in a session of its own."""

    async def main() -> T:
        async with cloud(state) as session:
            return await work(session)

    return asyncio.run(main())
