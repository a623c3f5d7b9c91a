"""Jobs for the coordinator's tests, and an edge that answers their rounds as its devices would."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import msgspec

from msrt.learning.compress import open_codec
from msrt.protocol.messages import RoundOpen, UpdateMeta
from msrt.training.bundle import pack
from tests.cloud.rig import device, until
from tests.flows.trainer import SIZE, known_update
from tests.runtime.hop.tree import identity


def bundle(name="job", rounds=2, tail="", **config):
    """A job as its zip."""
    lines = "".join(f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in config.items())
    head = f'name = "{name}"\ntask = "none:Nothing"\nrounds = {rounds}\ncompression = "fp32"\n'
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "job.toml").write_text(head + lines + tail)
        return pack(Path(folder)).data


class Region:
    """One edge with devices; it passes each update on alone."""

    def __init__(self, rig, names):
        self.rig, self.names = rig, names

    async def join(self):
        self.edge = await self.rig.edge("edge-n", "north", *map(device, self.names))
        return self

    async def back(self):
        """The edge is with the cloud again, and reported. The cloud lets it in a moment before it hears so."""
        node, edges = self.edge.one.node, self.rig.cloud.fleet.edges
        await until(lambda: node in edges and edges[node].alive and self.edge.peer is not None and self.edge.peer.live)
        self.edge.report(*map(device, self.names))

    async def opened(self, job, number):
        """Wait for that round."""

        def found():
            return [one for one in self.edge.said(RoundOpen) if (one.job, one.round) == (job, number)]

        await until(found)
        return found()[-1]

    def meta(self, opened, name, **change):
        node = identity(name).node
        samples = known_update(opened.job, opened.round, node)[1]
        meta = UpdateMeta(
            opened.job, opened.round, {node: samples}, f"{self.edge.one.node}/1", "fp32", SIZE, {"loss": 0.5}
        )
        return msgspec.structs.replace(meta, **change)

    def payload(self, opened, name):
        return open_codec("fp32", SIZE).encode(known_update(opened.job, opened.round, identity(name).node)[0])

    async def send(self, meta, payload):
        digest = hashlib.sha256(payload).hexdigest()
        await self.edge.peer.push("update", msgspec.to_builtins(meta), payload, size=len(payload), digest=digest)

    async def answer(self, opened, names=None):
        """These devices are done."""
        for name in self.names if names is None else names:
            await self.send(self.meta(opened, name), self.payload(opened, name))

    async def round(self, job, number, names=None):
        await self.answer(await self.opened(job, number), names)
