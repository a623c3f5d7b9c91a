"""What the codec of a region's sums left out, by job, over rounds and restarts."""

from __future__ import annotations

import contextlib
import zlib

import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.learning.compress import Codec, ErrorFeedback
from msrt.learning.vector import Vector
from msrt.world.world import UNCOUNTED, Store, World, by_size

__all__ = ["Feedbacks"]

log = structlog.get_logger()


class Feedbacks:
    """One edge's. On disk lies what was left out up to each of the last two rounds: one that is summed again after a
    restart begins where it began the first time.
    """

    def __init__(self, world: World, me: str) -> None:
        self._world, self._seed = world, zlib.crc32(me.encode())
        self._store: Store = world.disk.store("feedback")
        self._of: dict[str, ErrorFeedback] = {}

    @property
    def jobs(self) -> list[str]:
        return list(self._of)

    async def encode(self, job: str, round_: int, codec: Codec, mean: Vector) -> Buffer:
        """The payload of a region's mean. What it leaves out is on disk before this returns."""
        kept = codec.biased or codec.memory_size  # on the disk
        size = mean.nbytes if job in self._of and not kept else UNCOUNTED
        payload: Buffer = await by_size(self._world.offload, size, self._encode, job, round_, codec, mean)
        return payload

    def _encode(self, job: str, round_: int, codec: Codec, mean: Vector) -> Buffer:
        feedback = self._of.get(job)
        if feedback is None:
            feedback = self._of[job] = self._recall(job, round_, codec)
        payload = feedback.encode(mean, round_, lent=True)
        if not feedback.empty:
            self._remember(job, round_, feedback)
        return payload

    def _recall(self, job: str, round_: int, codec: Codec) -> ErrorFeedback:
        kept = sorted((int(key.rpartition("/")[2]), data) for key, data in self._store.scan(f"{job}/"))
        earlier = [data for number, data in kept if number < round_]
        try:
            return ErrorFeedback.load(earlier[-1], codec, self._seed) if earlier else ErrorFeedback(codec, self._seed)
        except errors.Corrupt as error:
            log.warning("round.feedback_dropped", job=job, error=error.text)
            return ErrorFeedback(codec, self._seed)

    def _remember(self, job: str, round_: int, feedback: ErrorFeedback) -> None:
        for key in sorted(key for key, _ in self._store.scan(f"{job}/"))[:-1]:
            self._store.put(key, None)
        self._store.put(f"{job}/{round_:08d}", bytes(feedback.save()))
        try:
            self._store.commit()
        except errors.DiskFull as error:
            log.warning("round.feedback_not_on_disk", job=job, error=error.text)

    async def forget(self, job: str) -> None:
        """The job is over."""
        self._of.pop(job, None)
        keys = [key for key, _ in self._store.scan(f"{job}/")]
        for key in keys:
            self._store.put(key, None)
        if keys:
            with contextlib.suppress(errors.DiskFull):  # it goes with the next commit
                await self._world.offload(self._store.commit)
