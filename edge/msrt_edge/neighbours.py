"""Links to other edges, made when a request first goes there: this edge is then a client of theirs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop import Peer, StreamSink, Uplink
from msrt.hop.homing import Endpoint
from msrt.hop.parcel import PULL
from msrt.protocol.messages import Hello, InferFailed, Inferred, Message, Parent, Pulled, StreamOpen
from msrt.serving.relay import Relay
from msrt.world.world import World

__all__ = ["Neighbours"]

log = structlog.get_logger()
REACH_S = 1.0
"""How long the first request waits for a link; a link that is there takes none of it."""


class Neighbours:
    """Implements msrt.hop.Handler for the links that it dials."""

    def __init__(
        self, world: World, hello: Hello, endpoint: Endpoint, relay: Relay,
        pulled: Callable[[Pulled, list[Buffer]], None], pull_stream: Callable[[Peer, StreamOpen], StreamSink],
    ) -> None:  # fmt: skip
        """`pulled` and `pull_stream` take what a parameter server answers to workers here."""
        self._world, self._hello, self._endpoint, self._relay = world, hello, endpoint, relay
        self._pulled, self._pull_stream = pulled, pull_stream
        self._known: dict[str, Parent] = {}
        self._links: dict[str, tuple[Uplink, asyncio.Task[None]]] = {}

    def know(self, edges: Iterable[Parent]) -> None:
        """The others, as they are now; links to those that are gone or moved are closed."""
        found = {edge.node: edge for edge in edges if self._endpoint(edge) is not None}
        for node in [node for node in self._links if found.get(node) != self._known.get(node)]:
            self._links.pop(node)[0].close()
        self._known = found

    @property
    def ways(self) -> list[tuple[str, str]]:
        """(node, region) of each."""
        return [(edge.node, edge.region) for edge in self._known.values()]

    async def reach(self, node: str, within_s: float) -> Peer:
        """A live session with it. Raises Disconnected, Forbidden and the like."""
        found = self._links.get(node)
        if found is None:
            parent = self._known.get(node)
            if parent is None:
                raise errors.Disconnected("that edge is gone")
            uplink = Uplink(self._world, self._hello, (parent,), self._endpoint, self, roams=False)
            task = asyncio.get_running_loop().create_task(uplink.run())
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            found = self._links[node] = uplink, task
        return await found[0].wait(min(REACH_S, within_s))

    def at_hand(self, node: str) -> Peer | None:
        """The session with it, where there is one now."""
        found = self._links.get(node)
        peer = found[0].peer if found is not None else None
        return peer if peer is not None and peer.live else None

    async def close(self) -> None:
        """Say goodbye to all."""
        links, self._links = list(self._links.values()), {}
        for uplink, task in links:
            uplink.close()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task], timeout=1.0)
            task.cancel()

    # --- as the handler ----------------------------------------------------------------------------------------

    def joined(self, peer: Peer) -> None:
        log.info("edge.neighbour_reached", node=peer.node)

    def left(self, peer: Peer, error: Exception, *, final: bool) -> None:
        self._relay.gone(peer)
        if final:
            log.info("edge.neighbour_away", node=peer.node, error=errors.words_of(error))

    def message(self, peer: Peer, message: Message, frames: list[Buffer]) -> None:
        match message:
            case Inferred():
                self._relay.answered(peer, message, frames)
            case InferFailed():
                self._relay.failed(peer, message)
            case Pulled():
                self._pulled(message, frames)
            case _:
                log.warning("edge.unexpected_message", peer=peer.node, type=type(message).__name__)

    async def called(self, _peer: Peer, method: str, _params: dict[str, object]) -> object:
        raise errors.Forbidden(f"an edge has no method {method!r} for its neighbours")

    def stream(self, peer: Peer, opened: StreamOpen) -> StreamSink:
        if opened.kind == PULL:
            return self._pull_stream(peer, opened)
        raise errors.Forbidden(f"an edge takes no stream {opened.kind} from its neighbours")

    async def stored(self, _peer: Peer, _messages: list[Message]) -> None:
        raise errors.Forbidden("an edge keeps nothing for its neighbours")
