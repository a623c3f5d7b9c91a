"""The weights of a round on this node's disk: as they are, or the version before and what changed since.

Decoding a change is float32 arithmetic element by element, so every machine gets the same bytes; a checksum says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import numpy as np
import structlog

from msrt.artifacts import ArtifactStore, Fetch
from msrt.buffers import Buffer, Rooms
from msrt.errors import Corrupt, MsrtError, words_of
from msrt.learning.compress import Codec, open_codec
from msrt.learning.vector import peek
from msrt.protocol.checksum import SPAN, Running, quick
from msrt.protocol.messages import Change, RoundOpen
from msrt.world.world import Spans, World

__all__ = ["AtHand", "bring", "carries", "changed", "checksum"]

log = structlog.get_logger()
CARRIED: Final = 64 << 10
"""Bytes that ride with a round's opening."""
MOST: Final = 256 << 10
"""Bytes of weights that nodes keep in memory, to follow them by changes."""


def carries(weights: Buffer, change: Buffer = b"") -> tuple[Buffer, ...]:
    """What rides with a round's opening: the weights, or where they go by changes the last one; nothing if large."""
    data = change or weights
    return (data,) if len(data) <= CARRIED and len(weights) <= MOST else ()


class AtHand:
    """The newest weights of each job, where they are small: as they came with a round's opening, or follow from what
    changed since the last one. They never lie on the disk: whoever lost them fetches them.
    """

    def __init__(self) -> None:
        self._of: dict[str, tuple[str, Buffer]] = {}
        """Job to digest and bytes."""

    def find(self, message: RoundOpen, frames: Sequence[Buffer] = ()) -> Buffer | None:
        """Of that round, verified."""
        digest, known = self._of.get(message.job, ("", b""))
        if digest == message.weights:
            return known
        last = message.chain[-1] if message.chain else None
        for frame in frames[:1]:
            whole, came = frame, hashlib.sha256(frame).hexdigest()
            if last is not None and (last.delta, last.base) == (came, digest):
                try:
                    whole = changed(known, [(last.codec, frame)], Rooms(0))
                except MsrtError as error:
                    log.warning("weights.change_failed", job=message.job, round=message.round, error=words_of(error))
                    return None
                came = hashlib.sha256(whole).hexdigest()
            if came == message.weights:
                self._of[message.job] = (came, whole)
                return whole
        return None

    def takes(self, size: int) -> bool:
        """Weights of so many bytes?"""
        return size <= MOST

    def keep(self, message: RoundOpen, weights: Buffer) -> None:
        """They were fetched: the next ones may follow from them."""
        self._of[message.job] = (message.weights, weights)

    def forget(self, job: str) -> None:
        """It is over."""
        self._of.pop(job, None)


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


async def bring(
    world: World, artifacts: ArtifactStore, fetch: Fetch, message: RoundOpen, rooms: Rooms, before: str | None = None
) -> None:
    """Have the weights of that round in the store, the cheapest way there is. Raises what fetching raises.

    `before`: who passes weights on to nobody names those it had, if any. The new ones take their place, and a checksum
    will do: they come from who told it, over a link that authenticates each frame.
    """
    chain = _ahead(artifacts, message)
    if chain:
        try:
            if await _follow(world, artifacts, fetch, message, chain, rooms, own=before is not None):
                return
        except MsrtError as error:
            log.warning("weights.change_failed", job=message.job, round=message.round, error=words_of(error))
        if before is not None:  # nobody has hashed them
            await artifacts.drop(*(change.delta for change in chain))
    check = partial(_whole, message.checksum) if before is not None and message.checksum else None
    if before and before != message.weights:
        await artifacts.drop(before, reuse=True)
    await artifacts.ensure(message.weights, fetch, sync=False, reuse=True, check=check)


def checksum(weights: Buffer) -> str:
    """Of their elements. Blocking. Raises Corrupt."""
    return quick(memoryview(weights)[peek(weights)[1] :])


def _whole(wanted: str, weights: memoryview) -> None:
    if checksum(weights) != wanted:
        raise Corrupt("the weights that came differ from the cloud's")


def _by_what_it_leads_to(_change: memoryview) -> None:
    """The weights after it are checked, and that says as much of it as a digest of its own."""


async def _follow(
    world: World, artifacts: ArtifactStore, fetch: Fetch, message: RoundOpen, chain: tuple[Change, ...], rooms: Rooms,
    *, own: bool,
) -> bool:  # fmt: skip
    """The weights from a version that is here, in its place where nobody needs it any more. Did they come out right?
    `own`: they are for this node alone, and so are the changes, which are then judged by where they lead.
    """
    base, wanted = chain[0].base, message.weights
    spent = [change.delta for change in message.chain[: -len(chain)]] if own else []
    async with AsyncExitStack() as stack:
        deltas = []
        for change in chain:
            if spent:
                await artifacts.drop(spent.pop(), reuse=True)
            judge = _by_what_it_leads_to if own else None
            await artifacts.ensure(change.delta, fetch, sync=False, reuse=True, check=judge)
            lent = await stack.enter_async_context(artifacts.lend(change.delta))
            deltas.append((change.codec, await lent.whole()))
        async with artifacts.lend(base) as known:
            layout, start = peek(await known.whole())
        codecs = [(open_codec(name, layout), payload) for name, payload in deltas]
        if message.checksum and all(codec.local for codec, _ in codecs):
            work = partial(_moved, codecs, start, message.checksum)
            if await artifacts.evolve(base, wanted, start, SPAN, work):
                return True
        async with artifacts.lend(base) as known:
            whole: memoryview = await world.offload(changed, await known.whole(), deltas, rooms)
    digest = await artifacts.put_bytes(whole, sync=False)
    rooms.give(whole)
    if digest != wanted:
        log.warning("weights.change_differs", wanted=wanted, got=digest)
    return digest == wanted


def _moved(codecs: Sequence[tuple[Codec, Buffer]], start: int, wanted: str, spans: Spans) -> None:
    """Weights in place, span by span. Raises BadUpdate, Corrupt. Blocking."""
    running, room = Running(), np.empty(SPAN // 4, np.float32)
    for codec, payload in codecs:
        codec.fits(payload)
    for offset, span in spans:
        elements = np.frombuffer(span, "<f4")
        part = room[: elements.size]
        for codec, payload in codecs:
            codec.part(payload, (offset - start) // 4, part)
            np.add(elements, part, out=elements)
        running.add(span)
    if running.text() != wanted:
        raise Corrupt("the weights after a change differ from the cloud's")


def _ahead(artifacts: ArtifactStore, message: RoundOpen) -> tuple[Change, ...]:
    """The fewest changes that lead there from a version that is here; none without such a version, or need."""
    if artifacts.has(message.weights):
        return ()
    for at in range(len(message.chain) - 1, -1, -1):
        if artifacts.has(message.chain[at].base):
            return message.chain[at:]
    return ()
