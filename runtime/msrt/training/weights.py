"""The weights of a round on this node's disk: as they are, or the version before and what changed since.

Decoding a change is float32 arithmetic element by element, so every machine gets the same bytes; the digest says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import structlog

from msrt.artifacts import ArtifactStore, Fetch
from msrt.buffers import Buffer, Rooms
from msrt.errors import MsrtError
from msrt.learning.compress import open_codec
from msrt.learning.vector import peek
from msrt.protocol.messages import Change, RoundOpen
from msrt.world.world import World

__all__ = ["bring", "changed"]

log = structlog.get_logger()


def changed(weights: Buffer, deltas: Sequence[tuple[str, Buffer]], rooms: Rooms) -> memoryview:
    """The weights after these changes (codec, payload), oldest first, in one of the rooms. Raises BadUpdate, Corrupt.
    Blocking.
    """
    layout, start = peek(weights)
    room = rooms.take(len(weights))
    np.copyto(np.frombuffer(room, np.uint8), np.frombuffer(weights, np.uint8))
    moved = np.frombuffer(room, "<f4", offset=start)
    for name, payload in deltas:
        codec = open_codec(name, layout)
        codec.fits(payload)
        codec.add(payload, 1.0, moved)
    return room


async def bring(world: World, artifacts: ArtifactStore, fetch: Fetch, message: RoundOpen, rooms: Rooms) -> None:
    """Have the weights of that round in the store, the cheapest way there is. Raises what fetching raises."""
    chain = _ahead(artifacts, message)
    if chain:
        try:
            async with artifacts.lend(chain[0].base) as base:
                deltas = [(change.codec, await artifacts.get(change.delta, fetch)) for change in chain]
                whole: memoryview = await world.offload(changed, await base.whole(), deltas, rooms)
            digest = await artifacts.put_bytes(whole, sync=False)
            rooms.give(whole)
        except MsrtError as error:
            log.warning("weights.change_failed", job=message.job, round=message.round, error=str(error))
        else:
            if digest == message.weights:
                return
            log.warning("weights.change_differs", job=message.job, round=message.round, got=digest)
    await artifacts.ensure(message.weights, fetch, sync=False)


def _ahead(artifacts: ArtifactStore, message: RoundOpen) -> tuple[Change, ...]:
    """The fewest changes that lead there from a version that is here; none without such a version, or need."""
    if artifacts.has(message.weights):
        return ()
    for at in range(len(message.chain) - 1, -1, -1):
        if artifacts.has(message.chain[at].base):
            return message.chain[at:]
    return ()
