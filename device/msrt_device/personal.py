"""This node's own model of a job with [train] keep_local: the weights of all, with the tensors that never left it.

It is made here, in the job's process, and stays here: an artifact of this disk, pinned, which the cloud signs for by
digest and places on this node alone. `part` gives its bytes away, for an operator who asks for just that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated, Final

import msgspec
import structlog

from msrt import errors
from msrt.artifacts import ArtifactStore, Fetch
from msrt.training.trainer import Trainer
from msrt.world.world import Store, World

__all__ = ["Ask", "Part", "Personal"]

log = structlog.get_logger()
OWN: Final = "own/"
KEPT: Final = 2
"""Models of a job that stay: the one that is served may be rolled back to the one before."""
PART: Final = 128 << 10
"""Bytes of one answer: it fits a packet of every link."""
Lend = Callable[[str, str, bytes], AbstractAsyncContextManager[Trainer]]
"""(job, bundle, signature) to the job's process, for a while."""


class Ask(msgspec.Struct, frozen=True):
    """Of which job, with which weights."""

    job: str
    bundle: str
    signature: bytes
    weights: str
    most: int
    """What this node kept of later rounds goes with later weights."""


class Part(msgspec.Struct, frozen=True):
    """Bytes of a model that was made here."""

    digest: str
    offset: Annotated[int, msgspec.Meta(ge=0)] = 0


class Personal:
    """`lend` gives the job's process: see `Training.lend`."""

    def __init__(self, world: World, store: Store, artifacts: ArtifactStore, fetch: Fetch, lend: Lend) -> None:
        self._world, self._store, self._artifacts, self._fetch, self._lend = world, store, artifacts, fetch, lend
        self._made = {
            key.removeprefix(OWN): msgspec.json.decode(value, type=list[str]) for key, value in store.scan(OWN)
        }
        """Digests by job, newest first."""
        self._pin()

    async def asked(self, method: str, params: dict[str, object]) -> object:
        """`personal` or `personal.part`, from above. Raises CallerError, and what the two raise."""
        try:
            if method == "personal":
                return await self.make(msgspec.convert(params, Ask, builtin_types=(bytes,)))
            return await self.part(msgspec.convert(params, Part))
        except msgspec.ValidationError as error:
            raise errors.CallerError(f"{method}: {error}") from None

    async def make(self, asked: Ask) -> dict[str, object]:
        """Digest and size of the model as this node has it, and the round of what it kept. Raises JobFailed,
        NotTrusted, DiskFull, and what fetching raises.
        """
        async with self._artifacts.keeping(asked.weights):
            await self._artifacts.ensure(asked.weights, self._fetch)
            weights = await self._artifacts.file(asked.weights) or await self._artifacts.read(asked.weights)
            async with self._lend(asked.job, asked.bundle, asked.signature) as trainer:
                round_, model = await trainer.personal(weights, asked.most, 100.0)
                if isinstance(model, Path):
                    data = await self._world.offload(model.read_bytes)
                    await self._world.offload(model.unlink)
                else:
                    data = bytes(model)
        digest = hashlib.sha256(data).hexdigest()
        before = [other for other in self._made.get(asked.job, []) if other != digest]
        self._made[asked.job] = [digest, *before][:KEPT]
        self._pin()
        await self._artifacts.put_bytes(data)
        self._store.put(OWN + asked.job, msgspec.json.encode(self._made[asked.job]))
        await self._world.offload(self._store.commit)
        log.info("personal.made", job=asked.job, round=round_, digest=digest, bytes=len(data))
        return {"digest": digest, "size": len(data), "round": round_}

    async def part(self, asked: Part) -> dict[str, object]:
        """Raises Forbidden for what is no model of this node's own, NotFound."""
        if not any(asked.digest in digests for digests in self._made.values()):
            raise errors.Forbidden("that is no model that this node made of its own layers")
        async with self._artifacts.lend(asked.digest) as lent:
            return {"data": bytes(await lent.read(asked.offset, PART)), "size": lent.size}

    def _pin(self) -> None:
        self._artifacts.pin({digest for digests in self._made.values() for digest in digests}, "personal")
