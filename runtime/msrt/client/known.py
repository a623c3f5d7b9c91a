"""Which edges there are: named by the caller, remembered from the last time, told by the cloud and by the edges."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from msrt import errors
from msrt.client.peers import Member, Quiet, edges_of
from msrt.hop import Uplink
from msrt.joining import IDENTITY, endpoint_for, hello_of, load_member
from msrt.process import default_state
from msrt.protocol import wire
from msrt.protocol.messages import Parent
from msrt.trust.roles import Role

__all__ = ["Known", "ask_cloud", "load_caller", "member_folder", "same_url"]

KEY = "edges"


def member_folder(state: Path | None) -> Path:
    """Where the identity lies: STATE/operator for a cloud's state, STATE itself for one made by `msrt login`.

    Raises NotEnrolled when there is none.
    """
    candidates = [state] if state else [default_state("cloud"), default_state("client")]
    for folder in candidates:
        for found in (folder / "operator", folder):
            if (found / IDENTITY).exists() and not (found / "operator").exists():
                return found
    raise errors.NotEnrolled(
        f"no identity in {' or '.join(str(c) for c in candidates)}",
        hint="run this where the cloud runs, name its directory with --state, or log in: msrt login INVITE",
    )


async def load_caller(state: Path | None) -> Member:
    """The identity of a client or operator. Raises NotEnrolled, StateForeign (it is a node's)."""
    folder = member_folder(state)
    world, identity, membership = await load_member(folder)
    if membership.role not in (Role.CLIENT, Role.OPERATOR):
        raise errors.StateForeign(f"{folder} belongs to the {membership.role} {membership.name}")
    return world, identity, membership


def same_url(url: str) -> str:
    """One spelling of an address. Raises InvalidAddress."""
    parts = urlsplit(url)
    if parts.scheme not in ("tcp", "ipc", "http", "https", "mem") or not (parts.netloc or parts.path):
        raise errors.InvalidAddress(
            f"{url!r} is no address of an edge", hint="write tcp://HOST:PORT, http://HOST:PORT or https://HOST:PORT"
        )
    return url.rstrip("/").replace("://localhost:", "://127.0.0.1:")


async def ask_cloud(member: Member, wait_s: float) -> list[Parent]:
    """The edges, as the cloud knows them. Raises Disconnected, and why the cloud sent us away."""
    world, identity, membership = member
    hello = hello_of(world, identity, membership)
    uplink = Uplink(world, hello, membership.parents[:1], endpoint_for(identity, membership), Quiet(), roams=False)
    task = asyncio.get_running_loop().create_task(uplink.run())
    try:
        return edges_of(await uplink.call("edges", {}, wait_s))
    finally:
        uplink.close()
        await asyncio.wait([task])  # and not the task itself: a cancellation of ours must not end here


class Known:
    """The list, in the order in which edges are tried; kept on disk where there is an identity."""

    def __init__(self, urls: Sequence[str], member: Member | None) -> None:
        self._urls = [same_url(url) for url in urls]
        self._member = member
        self._store = member[0].disk.store("node") if member else None
        self.edges: dict[str, Parent] = {}
        if self._store is not None:
            found = dict(self._store.scan(KEY)).get(KEY)
            with contextlib.suppress(errors.MalformedFrame):
                self.learn(wire.unpack(found, tuple[Parent, ...]) if found else ())

    def learn(self, edges: Iterable[Parent]) -> bool:
        """What an edge or the cloud said. True if it was news. Who is not named any more is kept: it may be away."""
        fresh = {edge.node: edge for edge in edges if edge.node and (edge.zmq or edge.http)}
        news = any(self.edges.get(node) != edge for node, edge in fresh.items())
        self.edges.update(fresh)
        return news

    async def save(self) -> None:
        """Remember them for the next start."""
        if self._store is not None and self._member is not None:
            self._store.put(KEY, wire.pack(tuple(self.edges.values())))
            await self._member[0].offload(self._store.commit)

    @property
    def urls(self) -> list[str]:
        """Addresses to try, the caller's first; over ZeroMQ where there is an identity."""
        named = list(self._urls)
        for edge in self.edges.values():
            own = {edge.zmq, edge.http} - {""}
            if not own & set(named):
                named.append(edge.zmq if edge.zmq and self._member else edge.http)
        return [url for url in named if url]

    def edge_at(self, url: str) -> Parent | None:
        """The edge that listens there, if we know it: over ZeroMQ we must know its key."""
        return next((edge for edge in self.edges.values() if edge.zmq and same_url(edge.zmq) == url), None)

    def pin_of(self, url: str) -> str:
        """The fingerprint that this address was told of with; empty without."""
        return next((edge.http_fingerprint for edge in self.edges.values() if edge.http == url), "")

    @property
    def unknown(self) -> list[str]:
        """Addresses of the caller that we lack the key for."""
        return [u for u in self._urls if not u.startswith("http") and self.edge_at(u) is None]
