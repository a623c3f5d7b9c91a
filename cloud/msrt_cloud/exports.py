"""A job's model as a file, and models of single nodes: `msrt train export --onnx` and `msrt train serve`.

With [train] keep_local every node has a model of its own. To serve it, the node makes it and keeps it; the cloud signs
for its digest and places it there, and never sees the layers. Their bytes leave a node only by `export` of that node.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop import Peer
from msrt.inference.bundle import FP32
from msrt.journal.state import Job, Node
from msrt.protocol.address import ModelName
from msrt.training.settings import JobConfig
from msrt.trust.roles import Role
from msrt_cloud.registry import Home, Push

if TYPE_CHECKING:
    from msrt_cloud.master import Cloud

__all__ = ["Exports", "JobExport", "JobPart", "JobServe"]

PART: Final = 512 << 10
EXPORT_S: Final = 300.0
MAKE_S: Final = 160.0
"""For a node: it starts the job's process, fetches the weights and writes a file."""


class _Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True): ...


class JobExport(_Params, frozen=True):
    """A job's model; with a node, as that one has it."""

    job: str
    node: str = ""


class JobPart(_Params, frozen=True):
    """Bytes of an export."""

    digest: str
    node: str = ""
    offset: Annotated[int, msgspec.Meta(ge=0)] = 0


class JobServe(_Params, frozen=True):
    """A node's own model, to be run there. Empty model: the names of job and node."""

    job: str
    node: str
    model: str = ""


class Exports:
    """The desk for it."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._turn = asyncio.Lock()
        """One process of an ended job at a time: they share its directory."""
        self._given: set[str] = set()
        """Digests of what was exported here."""

    async def export(self, _peer: Peer, p: JobExport) -> object:
        """Make it; digest and size, for `part`. Raises NotFound, Conflict, Unavailable, JobFailed."""
        job, config = self._of(p.job)
        if p.node:
            return await self._made(job, config, self._device(p.node))
        if config.train.keep_local:
            said = f"every node has a model of {p.job} of its own: [train] keep_local stays with it"
            raise errors.Conflict(said, hint="--node NAME brings one here; msrt train serve leaves it there")
        data = await self._onnx(job)
        digest = await self._cloud.artifacts.put_bytes(data)
        self._given.add(digest)
        return {"digest": digest, "size": len(data), "round": job.round}

    async def part(self, _peer: Peer, p: JobPart) -> object:
        """Raises NotFound, Forbidden, Unavailable."""
        if p.node:
            ask = {"digest": p.digest, "offset": p.offset}
            return await self._cloud.control.down(p.node, "node.personal.part", ask)
        if p.digest not in self._given:
            raise errors.NotFound(f"{p.digest[:12]} was not exported", hint="msrt train export JOB --onnx FILE")
        async with self._cloud.artifacts.lend(p.digest) as lent:
            return {"data": bytes(await lent.read(p.offset, PART)), "size": lent.size}

    async def serve(self, _peer: Peer, p: JobServe) -> object:
        """Place a node's own model on it, under a name of its own. Raises as `export`, and InvalidModel."""
        job, config = self._of(p.job)
        node = self._device(p.node)
        model = ModelName.parse(p.model or f"{p.job}-{node.name}".lower()).name
        made, cloud = await self._made(job, config, node), self._cloud
        own = cloud.training.curves.judged(p.job).get(node.node)
        report: dict[str, object] = {"own": f"layers of {node.name}, round {made['round']} of {p.job}"}
        if own is not None and own.accuracy is not None:
            report["accuracy_own"] = own.accuracy
        home = Home(node.node, str(made["digest"]), int(made["size"]), report)
        shape = await cloud.artifacts.put_bytes(await self._onnx(job))
        pushed = await cloud.registry.push(Push(name=model, file=shape, require=FP32), home)
        rollout = await cloud.rollouts.begin(model, int(pushed["version"]), "", f"name={node.name}", 0.0)
        return {**rollout, "node": node.name, "digest": made["digest"], "round": made["round"]}

    def _of(self, name: str) -> tuple[Job, JobConfig]:
        job = self._cloud.training.job(name)
        if not job.weights:
            raise errors.Conflict(f"{name} has no weights yet", hint="wait for its first round")
        return job, msgspec.convert(job.created.config, JobConfig)

    def _device(self, name: str) -> Node:
        node = self._cloud.fleet.find(self._cloud.writer.state, name)
        if node.role != Role.DEVICE:
            raise errors.CallerError(f"{node.name} is no device but {node.role}: it trains nothing")
        return node

    async def _made(self, job: Job, config: JobConfig, node: Node) -> dict[str, Any]:
        created = job.created
        if not config.train.keep_local:
            said = f"the model of {created.job} is the same on all nodes"
            raise errors.Conflict(said, hint="leave --node out; [train] keep_local of job.toml names what nodes keep")
        ask: dict[str, object] = {
            "job": created.job, "bundle": created.bundle, "signature": created.signature, "weights": job.weights,
            "most": job.round * config.pace.steps,
        }  # fmt: skip
        found = await self._cloud.control.down(node.node, "node.personal", ask, MAKE_S)
        if not isinstance(found, dict):
            raise errors.Unavailable(f"{node.name} gave an answer of another kind", hint="update its agent")
        return found

    async def _onnx(self, job: Job) -> Buffer:
        """Of the weights in common, with the tensors of their own that all nodes began with."""
        cloud, name = self._cloud, job.created.job
        weights, running = await cloud.artifacts.read(job.weights), cloud.training.running(name)
        if running is not None and job.ended is None:
            return (await running.workshop.export(weights, EXPORT_S)).onnx
        async with self._turn:
            workshop = cloud.training.workshop(name)
            try:
                await workshop.start(await cloud.artifacts.read(job.created.bundle))
                return (await workshop.export(weights, EXPORT_S)).onnx
            finally:
                await workshop.stop(for_good=True)
