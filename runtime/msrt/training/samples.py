"""DP-SGD (Abadi 2016) on one node: each sample's gradient is clipped, noise is added in every step. By Opacus.

A step's batch is drawn by chance: each sample with the job's `rate`, and nobody is told which. So every node has the
same number of steps and the same odds whatever data it has, and what is spent follows from the job alone. A batch is
computed in parts of `train.batch`, which bounds the memory that a gradient for each sample takes.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator

import numpy as np
import torch

from msrt.errors import InvalidJob
from msrt.learning.noise import KEY, add_noise
from msrt.training.batches import length_of
from msrt.training.local import Bound, Fitted, Local
from msrt.training.methods import method_of
from msrt.training.seeds import number_of, reseed
from msrt.training.task import Batch, Data, Task

try:
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer
    from opacus.validators import ModuleValidator
except ModuleNotFoundError as error:
    raise InvalidJob(
        f"mode 'sample' of [privacy] needs {error.name}", hint="pip install 'msrt[private]' on every node"
    ) from error

__all__ = ["SampleSteps", "drawn", "fit"]


class _Noisy(DPOptimizer):  # type: ignore[misc]  # Opacus has no types
    """Its noise comes from keys of the operating system instead of torch's generator, which can be guessed."""

    def add_noise(self) -> None:
        for parameter in self.params:
            summed = parameter.summed_grad
            flat = summed.detach().cpu().numpy().reshape(-1)
            noisy = add_noise(flat, self.noise_multiplier * self.max_grad_norm, os.urandom(KEY))
            parameter.grad = torch.from_numpy(noisy).view_as(parameter).to(parameter.device)


class SampleSteps:
    """Private steps of `model`, which is as it was after `close`. Raises InvalidJob for one that cannot have them."""

    def __init__(self, task: Task, model: torch.nn.Module, clip: float, noise: float, expected: float) -> None:
        self._task = task
        faults = ModuleValidator.validate(model, strict=False)
        if faults:
            raise InvalidJob(f"[privacy] mode 'sample': {faults[0]}", hint="a layer must treat each sample by itself")
        try:
            self._model = GradSampleModule(model)
        except (NotImplementedError, ValueError) as error:
            raise InvalidJob(f"[privacy] mode 'sample': {error}") from error
        self._parameters = [one for one in model.parameters() if one.requires_grad]
        self._private = _Noisy(
            torch.optim.SGD(self._parameters, lr=1.0), noise_multiplier=noise, max_grad_norm=clip,
            expected_batch_size=expected,
        )  # fmt: skip

    def gradient(self, parts: Iterator[Batch]) -> tuple[float, int]:
        """Leave the noisy mean gradient of a batch in `grad`; (sum of losses, samples), which are not private."""
        losses, seen = 0.0, 0
        self._private.zero_grad()
        for part in parts:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                loss = self._task.loss(self._model, part)
                loss.backward()  # type: ignore[no-untyped-call]
            self._private.signal_skip_step(do_skip=True)
            self._private.pre_step()
            self._private.zero_grad()
            losses, seen = losses + float(loss.detach()) * len(part[0]), seen + len(part[0])
        for parameter in self._parameters:  # nothing more to add: the noise comes now, also to an empty batch
            parameter.grad_sample = torch.zeros((0, *parameter.shape), device=parameter.device)  # type: ignore[attr-defined]
        self._private.signal_skip_step(do_skip=False)
        self._private.pre_step()
        return losses, seen

    def close(self) -> None:
        """Take the hooks away."""
        self._model.to_standard_module()


def drawn(data: Data, length: int, rate: float, part: int) -> Iterator[Batch]:
    """A batch drawn by chance, in parts of at most so many samples; often of another size, at times of none."""
    rng = np.random.Generator(np.random.SFC64(int.from_bytes(os.urandom(32))))
    chosen = torch.from_numpy(np.flatnonzero(rng.random(length) < rate))
    if isinstance(data, tuple):
        for at in range(0, len(chosen), part):
            yield tuple(column[chosen[at : at + part]] for column in data)
    elif len(chosen):
        yield from torch.utils.data.DataLoader(torch.utils.data.Subset(data, chosen.tolist()), part)


def fit(local: Local, train: Data, seed: tuple[int, int, int], noise: float, bound: Bound) -> Fitted:
    """What `Local` does in a round, by private steps: as many an epoch as bring each sample up once, on average."""
    config, length = local.config, length_of(train)
    privacy = config.privacy
    assert privacy is not None
    assert privacy.rate is not None
    settings = config.train.at(seed[1])
    reseed(number_of(*seed))
    optimiser, method, rate = local.task.optimiser(local.model, settings), method_of(settings), privacy.rate
    method.begin(local.model, optimiser)
    local.model.train()
    whole = math.ceil(settings.epochs / rate)
    most = max(1, round(bound.work * whole))
    losses, seen, done = 0.0, 0, 0
    steps = SampleSteps(local.task, local.model, privacy.clip, noise, rate * length)
    try:
        while done < most and not (done and local.now() >= bound.until):
            loss, samples = steps.gradient(drawn(train, length, rate, settings.batch))
            method.adjust()
            optimiser.step()
            losses, seen, done = losses + loss, seen + samples, done + 1
    finally:
        steps.close()
    return Fitted(losses / max(seen, 1), done / whole, done)
