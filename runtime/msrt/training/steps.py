"""What a worker of a parameter server does between a pull and a push. Runs in the runner; brings torch.

Batches follow from (seed, index of the worker, clock): a clock done again takes the same data.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from msrt.errors import InvalidJob
from msrt.learning.compress import ErrorFeedback
from msrt.learning.parameter_server.shard import codec_for
from msrt.learning.parameter_server.shards import Span
from msrt.learning.vector import Array, Vector
from msrt.training.batches import length_of, take
from msrt.training.local import Local
from msrt.training.seeds import number_of, reseed
from msrt.training.settings import ParameterServer
from msrt.training.task import Batch, Data, Node

__all__ = ["Steps"]


class Steps:
    """One task's; `settings` is [parameter_server]."""

    def __init__(self, local: Local, settings: ParameterServer) -> None:
        self._local, self._settings = local, settings
        self._order: tuple[tuple[int, int, int], Array] = ((-1, -1, -1), np.empty(0, np.int64))
        self._feedback: list[ErrorFeedback] = []
        self._push: Vector = np.zeros(local.layout.size, np.float32)

    def step(
        self, weights: Vector, node: Node, clock: int, *, judge: bool
    ) -> tuple[Vector, int, int, dict[str, float]]:
        """(what to push, samples in it, samples of the node, metrics). Raises InvalidJob where there is no data."""
        local, every = self._local, self._settings.push_every
        train, test = local.data(node)
        if not length_of(train):
            raise InvalidJob(f"node {node.id} has no training data")
        local.put(weights)
        metrics: dict[str, float] = {}
        if judge and (judged := length_of(test)):
            metrics = {**local.judge(test), "judged": float(judged)}
        reseed(number_of(local.config.seed, node.index, clock))
        batches = [self._batch(train, node, clock * every + at) for at in range(every)]
        local.model.train()
        losses = self._walk(batches) if self._settings.push == "delta" else self._gradient(batches)
        samples = sum(len(batch[0]) for batch in batches)
        metrics["train_loss"] = losses / samples
        if self._settings.push == "delta":
            np.subtract(weights, local.vector(), out=self._push)
        return self._push, samples, length_of(train), metrics

    def encode(self, push: Vector, spans: Sequence[Span], encoding: str, clock: int, seed: int) -> list[memoryview]:
        """A payload for each range; what a biased codec leaves out goes into the next ones."""
        if [feedback.codec.size for feedback in self._feedback] != [span.size for span in spans]:
            self._feedback = [ErrorFeedback(codec_for(encoding, span), seed + at) for at, span in enumerate(spans)]
        return [
            memoryview(feedback.encode(push[span.start : span.stop], clock))
            for feedback, span in zip(self._feedback, spans, strict=True)
        ]

    def _batch(self, train: Data, node: Node, number: int) -> Batch:
        """The `number`-th batch that this worker ever takes: each epoch in an order of its own."""
        length, size = length_of(train), self._local.config.train.batch
        per_epoch = -(-length // size)
        epoch, at = divmod(number, per_epoch)
        key = (node.index, length, epoch)
        if self._order[0] != key:
            order = np.random.default_rng([self._local.config.seed & 0xFFFF_FFFF, node.index, epoch]).permutation(
                length
            )
            self._order = key, order
        return take(train, self._order[1][at * size : (at + 1) * size])

    def _gradient(self, batches: Sequence[Batch]) -> float:
        """The mean gradient over the samples of all batches into `_push`; the sum of their losses."""
        local, model = self._local, self._local.model
        samples, total = sum(len(batch[0]) for batch in batches), 0.0
        for parameter in model.parameters():
            parameter.grad = None
        for batch in batches:
            loss = local.task.loss(model, batch)
            (loss * (len(batch[0]) / samples)).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach()) * len(batch[0])
        clip = local.config.train.clip
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        local.gradient(self._push)
        decay = local.config.train.weight_decay
        if decay:
            self._push += np.float32(decay) * local.vector()
        return total

    def _walk(self, batches: Sequence[Batch]) -> float:
        """Steps of the task's own optimiser; the sum of their losses."""
        local = self._local
        optimiser, total = local.task.optimiser(local.model, local.config.train), 0.0
        for batch in batches:
            optimiser.zero_grad()
            loss = local.task.differentiate(local.model, batch)
            if local.config.train.clip:
                torch.nn.utils.clip_grad_norm_(local.model.parameters(), local.config.train.clip)
            optimiser.step()
            total += float(loss) * len(batch[0])
        return total
