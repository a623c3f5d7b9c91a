"""A trainer for simulated trees: its update is a known vector of (job, round, node), so a sum shows who is in it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from msrt.errors import JobFailed
from msrt.learning.compress import open_codec
from msrt.learning.control import CONTROL
from msrt.learning.parameter_server.shard import codec_for
from msrt.learning.vector import Layout, Vector, load, save
from msrt.training.bundle import open_bundle
from msrt.training.pipe import WHOLE, Asked, Baselined, Evaluated, Stepped, Trained
from msrt.training.private import shielded
from msrt.training.settings import JobConfig
from msrt.training.task import Node
from msrt.training.trainer import Export, Step

SIZE = 64


def known_update(job: str, round_: int, node: str) -> tuple[Vector, int]:
    """(delta, samples) of a node: small whole numbers over 16, so that float32 sums of thousands are exact."""
    seed = int.from_bytes(hashlib.sha256(f"{job}/{round_}/{node}".encode()).digest()[:8], "little")
    rng = np.random.default_rng(seed)
    return (rng.integers(-15, 16, SIZE) / 16).astype(np.float32), int(rng.integers(1, 65))


def known_mean(job: str, round_: int, included: Mapping[str, int]) -> Vector:
    """What a round must have added to the weights when exactly these nodes were included."""
    total = sum(included.values())
    parts = [known_update(job, round_, node)[0].astype(np.float64) * samples for node, samples in included.items()]
    mean: Vector = (np.sum(parts, axis=0) / total).astype(np.float32)
    return mean


class SimulatedTrainer:
    """Implements `Trainer` and `Workshop` over the virtual clock. `lasts` gives the seconds a round takes on a node."""

    def __init__(self, lasts: Callable[[Node, int], float] = lambda node, round_: 0.1) -> None:
        self.lasts = lasts
        self.config: JobConfig | None = None
        self.trained: list[tuple[str, int]] = []
        self.asked: list[Asked] = []
        self.size = SIZE
        self.stepped: list[tuple[str, int, np.ndarray]] = []
        """(node, clock, the weights that it was given) of each step of a parameter server's worker."""
        self._rooms: dict[str, memoryview] = {}
        self._running = asyncio.Event()
        self._running.set()

    async def start(self, bundle: bytes) -> JobConfig:
        self.config = open_bundle(bundle).config
        return self.config

    async def train(
        self, node: Node, round_: int, weights: bytes, encoding: str, within: float, asked: Asked = WHOLE
    ) -> Trained:
        if self.config is None:
            raise JobFailed("no job is open")
        whole = self.lasts(node, round_)
        spent = min(whole, asked.work_s or whole)
        try:
            async with asyncio.timeout(within):
                await asyncio.sleep(spent)
                await self._running.wait()
        except TimeoutError:
            raise JobFailed(f"train took longer than {within:.0f} s and was killed") from None
        delta, samples = known_update(self.config.name, round_, node.id)
        assert load(weights)[1].size == delta.size
        self.trained.append((node.id, round_))
        self.asked.append(asked)
        metrics = {"loss": 1.0 / round_, "accuracy": 1.0 - 1.0 / (round_ + 1)}
        metrics |= {"work": spent / whole if whole else 1.0}
        if self.config.privacy is not None:
            key = hashlib.sha256(f"noise/{self.config.name}/{round_}/{node.id}".encode()).digest()
            samples, (delta, metrics) = 1, shielded(self.config.privacy, delta, metrics, asked.noise, key)
        return Trained(samples, delta.size, encoding, metrics, open_codec(encoding, SIZE).encode(delta))

    async def personal(self, weights: bytes, most: int, within: float) -> tuple[int, bytes]:
        kept = [round_ for _, round_ in self.trained if round_ <= most]
        if not kept:
            raise JobFailed("this node has kept no part of the model")
        return kept[-1], b"personal " + bytes(weights)

    def room(self, name: str, size: int) -> memoryview:
        return self._rooms.setdefault(name, memoryview(bytearray(size)))

    async def step(self, step: Step, within: float) -> Stepped:
        """A known gradient of (job, clock, node), whatever the weights are."""
        assert self.config is not None
        weights = np.frombuffer(self.room(step.weights, 4 * SIZE), np.float32).copy()
        await asyncio.sleep(self.lasts(step.node, step.clock))
        await self._running.wait()
        gradient, samples = known_update(self.config.name, step.clock, step.node.id)
        room, at = self._rooms[step.target], 0
        for span in step.spans:
            payload = codec_for(step.encoding, span).encode(gradient[span.start : span.stop])
            room[at : at + len(payload)] = payload
            at += len(payload)
        self.stepped.append((step.node.id, step.clock, weights))
        judged = {"judged": 4.0, "loss": 1.0 / (step.clock + 1), "accuracy": 0.5} if step.judge else {}
        return Stepped(samples, 10 * samples, {"train_loss": 1.0, **judged})

    def pause(self) -> None:
        self._running.clear()

    def resume(self) -> None:
        self._running.set()

    async def stop(self, *, for_good: bool = False) -> None:
        self.config = None

    async def initial(self, within: float) -> bytes:
        zeros = np.zeros(SIZE, np.float32)
        if self.config is not None and self.config.train.algorithm == "scaffold":
            return save(Layout.of({"weights": zeros[::2], f"{CONTROL}weights": zeros[1::2]}), zeros)
        return save(Layout.of({"weights": zeros}), zeros)

    async def evaluate(self, weights: bytes, nodes: Sequence[Node], within: float) -> Evaluated:
        return Evaluated(len(nodes), {"norm": float(np.linalg.norm(load(weights)[1]))})

    async def export(self, weights: bytes, within: float) -> Export:
        return Export(onnx=weights)

    async def baseline(self, nodes: Sequence[Node], within: float) -> Baselined:
        return Baselined(tuple(0.5 for _ in nodes), 0.5, 0.9)
