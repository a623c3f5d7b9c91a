"""Strategies in which every rank runs the whole forward pass: DDP, FSDP2, tensor parallel, and the last two together.

The loss of a micro-batch is weighted by its part of the step's samples, so that the sum of all gradients is that of one
process on the whole batch, however unevenly it divides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist

from msrt.learning.vector import Layout, Vector
from msrt.training.cluster import shares
from msrt.training.cluster.blocks import recompute
from msrt.training.cluster.data import Samples
from msrt.training.cluster.place import Place
from msrt.training.cluster.trial import largest_batch
from msrt.training.cluster.whole import clip, fill, gathered, optimiser_state, restore_optimiser
from msrt.training.descent import Optimiser
from msrt.training.methods import method_of
from msrt.training.settings import JobConfig, TrainSettings
from msrt.training.task import Task

__all__ = ["Loss", "Replicas"]

TRIED: Final = 8
"""Samples on which a divided model must agree with the whole one."""
PRECISIONS: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Loss(torch.nn.Module):
    """The task's loss as a module: what a wrapper of models calls, whichever parts of the model the task uses."""

    def __init__(self, task: Task, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self._task = task

    def forward(self, *batch: torch.Tensor) -> torch.Tensor:
        return self._task.loss(self.model, batch)


class Replicas:
    """Implements `Engine`."""

    def __init__(self, task: Task, config: JobConfig, place: Place, samples: Samples, directory: Path) -> None:
        assert config.cluster is not None
        self._task, self._place, self._settings = task, place, config.cluster
        self.world = place.world
        torch.manual_seed(config.seed)
        self._model = task.model()
        state = self._model.state_dict()
        self.layout = Layout.of({name: value.detach().cpu().numpy() for name, value in state.items()})
        if self._settings.checkpoint_activations:
            recompute(self._model)
        self._model.to(place.device)
        self.batch = config.train.batch
        if self._settings.batch == "auto":
            found = largest_batch(task, self._model, place, samples, directory)
            self.batch = min(found * place.world * self._settings.accumulate, len(samples))
        self._loss: torch.nn.Module = Loss(task, self._model)
        self._forget: Callable[[], None] = lambda: None
        self.share, self._shares = place.rank, place.world
        self._divide(samples)
        self._total = torch.zeros((), dtype=torch.float64, device=place.device)

    def _divide(self, samples: Samples) -> None:
        """Wrap the loss, or divide the model; sets how gradients wait for the last micro-batch."""
        self._waits: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        if self._settings.strategy == "ddp":
            from msrt.training.cluster import copies  # noqa: PLC0415 - each strategy brings its part of torch

            self._loss, self._waits, self._forget = copies.wrap(self._loss, self._settings)
            return
        from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415

        from msrt.training.cluster import parallel, sharded  # noqa: PLC0415

        layer = (self._settings.tensor or self.world) if self._settings.strategy == "tensor" else 1
        self.share, self._shares = self._place.rank // layer, self.world // layer
        mesh = init_device_mesh(self._place.device.type, (self._shares, layer), mesh_dim_names=("data", "layer"))
        if layer > 1:
            batch = samples.take(torch.arange(min(len(samples), TRIED)), self._place.device)
            parallel.divide(self._task, self._model, mesh["layer"], batch)
        if self._shares > 1:
            precision = PRECISIONS.get(self._settings.precision)
            self._waits = sharded.shard(self._model, mesh["data"], precision)

    def begin(self, weights: Vector, settings: TrainSettings) -> None:
        self._train = settings
        own: dict[str, torch.Tensor] = dict(self._model.named_buffers(remove_duplicate=False))
        own.update(self._model.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name, values in self.layout.unflatten(weights).items():
                fill(own[name], torch.from_numpy(np.array(values)))
        self._optimiser: Optimiser = self._task.optimiser(self._model, settings)
        self._scaler = torch.amp.GradScaler(self._place.device.type, enabled=self._settings.precision == "fp16")
        self._forget()
        self._method = method_of(settings)
        self._method.begin(self._model, self._optimiser)
        self._total.zero_()
        self._model.train()

    def step(self, samples: Samples, chosen: torch.Tensor) -> None:
        self._optimiser.zero_grad()
        parts = shares.mine(len(chosen), self.share, self._shares, self._settings.accumulate)
        for at, (low, high) in enumerate(parts):
            # Who has no sample left takes part all the same, with one that weighs nothing: gradients are collective.
            batch = samples.take(chosen[low:high] if high > low else chosen[:1], self._place.device)
            with contextlib.nullcontext() if at == len(parts) - 1 else self._waits():
                with self._precision():
                    loss = self._loss(*batch)
                self._scaler.scale(loss * ((high - low) * self._shares / len(chosen))).backward()
            self._total += loss.detach().double() * (high - low)
        if self._train.clip:
            self._scaler.unscale_(self._optimiser)  # type: ignore[arg-type]
            clip((value.grad for value in self._model.parameters()), self._train.clip)
        self._method.adjust()
        self._scaler.step(self._optimiser)  # type: ignore[arg-type]
        self._scaler.update()

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self._settings.precision == "fp32" or (self._settings.strategy != "ddp" and self._shares > 1):
            return contextlib.nullcontext()
        return torch.autocast(self._place.device.type, PRECISIONS[self._settings.precision])

    def total(self) -> float:
        dist.all_reduce(self._total)
        copies = self.world // self._shares
        found = float(self._total) / copies
        self._total.zero_()
        return found

    def weights(self) -> Vector | None:
        return gathered(self.layout, self._model.state_dict())

    def state(self) -> dict[str, Any]:
        # The sum of losses is kept once, on rank 0, whatever the number of ranks that go on from it.
        total = torch.tensor(self.total(), dtype=torch.float64)
        self._total.fill_(total.item() if self.share == 0 else 0.0)
        kept = self._scaler.state_dict()
        scale = torch.tensor([kept.get("scale", 1.0), float(kept.get("_growth_tracker", 0))])
        return {
            "model": self._model.state_dict(),
            "optimiser": optimiser_state(self._model, self._optimiser),
            "total": total,
            "scale": scale,
        }

    def restore(self, state: dict[str, Any]) -> None:
        restore_optimiser(self._model, self._optimiser, state["optimiser"])
        self._total.fill_(state["total"].item() if self.share == 0 else 0.0)
        if self._scaler.is_enabled():
            scale, growth = state["scale"].tolist()
            self._scaler.load_state_dict(self._scaler.state_dict() | {"scale": scale, "_growth_tracker": int(growth)})
