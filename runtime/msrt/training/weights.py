"""The weights of a round on this node's disk: as they are, or the version before and what changed since.

Decoding a change is float32 arithmetic element by element, so every machine gets the same bytes; the digest says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from msrt.artifacts import ArtifactStore, Fetch
from msrt.buffers import Buffer
from msrt.errors import MsrtError
from msrt.learning.compress import open_codec
from msrt.learning.vector import load, save
from msrt.protocol.messages import Change, RoundOpen
from msrt.world.world import World

__all__ = ["bring", "changed"]

log = structlog.get_logger()


def changed(weights: Buffer, deltas: Sequence[tuple[str, Buffer]]) -> Buffer:
    """The weights after these changes (codec, payload), oldest first. Raises BadUpdate, Corrupt. Blocking."""
    layout, flat = load(weights)
    moved = flat.copy()
    for name, payload in deltas:
        codec = open_codec(name, layout)
        codec.fits(payload)
        codec.add(payload, 1.0, moved)
    return save(layout, moved)


async def bring(world: World, artifacts: ArtifactStore, fetch: Fetch, message: RoundOpen) -> None:
    """Have the weights of that round in the store, the cheapest way there is. Raises what fetching raises."""
    chain = _ahead(artifacts, message)
    if chain:
        try:
            base = await artifacts.read(chain[0].base)
            deltas = [(change.codec, await artifacts.get(change.delta, fetch)) for change in chain]
            whole: Buffer = await world.offload(changed, base, deltas)
            digest = await artifacts.put_bytes(whole, sync=False)
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
