"""The model registry: a pushed file is prepared in a child process, its variants become artifacts, its manifest is
signed and written into the journal. Only then it exists."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog

from msrt import errors
from msrt.artifacts import ArtifactStore
from msrt.inference.bundle import FP32, Manifest, sign_manifest
from msrt.journal.facts import ModelPushed
from msrt.journal.writer import Writer
from msrt.protocol import wire
from msrt.protocol.address import ModelName
from msrt.trust.identity import Identity, Purpose
from msrt.world.world import World
from msrt_cloud.prepare import Prepared, PrepareOptions
from msrt_cloud.quality import class_names
from msrt_cloud.room import file_name, of_disk
from msrt_cloud.signing import Repository
from msrt_cloud.signing.journal import target_of

__all__ = ["Home", "Prepare", "Push", "Registry"]

log = structlog.get_logger()
AT_ONCE = 2
"""Models prepared at a time; others wait."""

Prepare = Callable[[Path, Path, PrepareOptions], Awaitable[Prepared]]


class Push(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See `msrt model push`. Files are digests of artifacts that were streamed here before."""

    name: str
    file: str
    calibrate: str = ""
    eval: str = ""
    max_drop: float = 0.01
    min_accuracy: float = 0.0
    require: str = ""
    labels: list[str] = []
    state: list[str] = []
    pre: str = ""
    post: str = ""
    device_class: str = ""
    file_name: str = ""
    """What the user calls the files: errors speak of them by these names."""
    calibrate_name: str = ""
    eval_name: str = ""
    pre_name: str = ""
    post_name: str = ""


class Home(msgspec.Struct, frozen=True):
    """A device, and the model that it made of a pushed one and of layers that stay there: the same graph."""

    node: str
    digest: str
    size: int
    report: dict[str, object]

    def taken(self, manifest: Manifest) -> Manifest:
        """The manifest of what lies there. What was found out about the pushed file's quality says nothing of it."""
        file = msgspec.structs.replace(
            manifest.variants[FP32], digest=self.digest, size=self.size, method="made by the device"
        )
        return msgspec.structs.replace(
            manifest, variants={FP32: file}, require=FP32, home=self.node, scores="", temperature=1.0,
            report=self.report,
        )  # fmt: skip


KINDS = {
    "file": "model.onnx", "calibrate": "calibrate.npy", "eval": "eval.npz", "pre": "pre.onnx", "post": "post.onnx",
}  # fmt: skip
"""What a push streams, and how a file that came without a name is called."""


class Registry:
    """`prepare`: see msrt_cloud.prepare; in a child process in the field."""

    def __init__(
        self,
        world: World,
        identity: Identity,
        writer: Writer,
        artifacts: ArtifactStore,
        signing: Repository,
        prepare: Prepare,
    ) -> None:
        self._world, self._identity, self._writer, self._artifacts = world, identity, writer, artifacts
        self._signing, self._prepare = signing, prepare
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def push(self, push: Push, home: Home | None = None) -> dict[str, Any]:
        """Register a new version; `home`: with a file of a device's own in the place of this one. Raises
        InvalidAddress, NotFound, InvalidModel, InvalidTensor, InvalidConfig, QualityGate."""
        model = ModelName.parse(push.name)
        if model.version:
            raise errors.InvalidAddress(
                f"{push.name} names a version", hint="versions are given by the registry: leave it out"
            )
        async with self._turns:
            prepared, files = await self._prepared(push)
        labels = class_names(push.labels, prepared.outputs)
        for data in files if home is None else ():
            await self._artifacts.put_bytes(data)
        async with self._signing.turn:  # nobody else takes the version meanwhile
            manifest = prepared.manifest(model.name, self._writer.state.next_version(model.name), labels)
            manifest = manifest if home is None else home.taken(manifest)
            data, signature = sign_manifest(manifest, self._identity.signer(Purpose.MANIFEST))
            wall = self._world.wall()
            fact = ModelPushed(model.name, manifest.version, data, signature, dict(manifest.report), wall)
            await self._signing.publish(dict([target_of(fact)]))
            await self._writer.append(fact)
        log.info("model.pushed", model=fact.model, version=fact.version)
        return {"model": fact.model, "version": fact.version, "report": fact.report}

    async def _prepared(self, push: Push) -> tuple[Prepared, list[bytes]]:
        """Run the workshop over files of its own; the bytes of all that devices will ask for."""
        with of_disk(), tempfile.TemporaryDirectory(prefix="msrt-push-") as folder:
            place = Path(folder)
            paths: dict[str, str] = {}
            for kind, default in KINDS.items():
                digest = getattr(push, kind)
                if not digest:
                    continue
                path = place / kind / file_name(getattr(push, f"{kind}_name"), default)
                data = await self._artifacts.read(digest)
                await self._world.offload(_write, path, data)
                paths[kind] = str(path)
            out = place / "out"
            await self._world.offload(out.mkdir)
            options = PrepareOptions(
                paths.get("calibrate", ""),
                paths.get("eval", ""),
                push.max_drop,
                push.min_accuracy,
                push.require,
                tuple(push.state),
                paths.get("pre", ""),
                paths.get("post", ""),
                push.device_class,
            )
            prepared = await self._prepare(Path(paths["file"]), out, options)
            needed = [out / file.path for file in prepared.files.values()]
            needed += [Path(paths[stage]) for stage in prepared.stages]
            files = [await self._world.offload(path.read_bytes) for path in needed]
        return prepared, files

    def find(self, model: str, version: int) -> tuple[Manifest, dict[str, Any]]:
        """A version's manifest and report, the newest for 0. Raises NotFound."""
        versions = self._writer.state.models.get(ModelName.parse(model).name)
        if not versions:
            raise errors.NotFound(f"no model is named {model!r}", hint="msrt model list")
        pushed = versions.get(version or max(versions))
        if pushed is None:
            raise errors.NotFound(f"{model} has no version {version}", hint="msrt model list")
        return wire.unpack(pushed.manifest, Manifest), pushed.report


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(data)
