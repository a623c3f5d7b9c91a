"""Pipeline parallel: each rank has a run of layers, micro-batches follow each other through them.

The stages keep the names that their layers have in the whole model, so that weights and checkpoints are the same
however it is cut.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from msrt.errors import InvalidJob
from msrt.learning.vector import Layout, Vector
from msrt.training.cluster import shares
from msrt.training.cluster.data import Samples
from msrt.training.cluster.place import Place
from msrt.training.cluster.whole import clip, optimiser_state, restore_optimiser
from msrt.training.descent import Optimiser
from msrt.training.methods import method_of
from msrt.training.settings import JobConfig, TrainSettings
from msrt.training.task import Task

__all__ = ["Pipeline"]

PAIR: Final = 2


class Pipeline:
    """Implements `Engine` for a model that is an nn.Sequential, on batches of (features, labels)."""

    def __init__(self, task: Task, config: JobConfig, place: Place) -> None:
        assert config.cluster is not None
        self._task, self._place, self._settings = task, place, config.cluster
        self.world, self.share, self.batch = place.world, place.rank, config.train.batch
        torch.manual_seed(config.seed)
        model = task.model()
        self.layout = Layout.of({name: value.detach().cpu().numpy() for name, value in model.state_dict().items()})
        self._cut = _cut(model, place.world)
        low, high = self._cut[place.rank]
        layers = list(model.named_children())
        self._stages = [[name for name, _ in layers[start:stop]] for start, stop in self._cut]
        self._model = torch.nn.Sequential(OrderedDict(layers[low:high])).to(place.device)
        self._schedules: dict[int, Any] = {}
        self._total = torch.zeros((), dtype=torch.float64, device=place.device)

    @property
    def _first(self) -> bool:
        return self._place.rank == 0

    @property
    def _last(self) -> bool:
        return self._place.rank == self.world - 1

    def begin(self, weights: Vector, settings: TrainSettings) -> None:
        self._train = settings
        values = self.layout.unflatten(weights)
        own = self._model.state_dict()
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(torch.from_numpy(np.array(values[name])))
        self._optimiser: Optimiser = self._task.optimiser(self._model, settings)
        self._method = method_of(settings)
        self._method.begin(self._model, self._optimiser)
        self._total.zero_()
        self._model.train()

    def step(self, samples: Samples, chosen: torch.Tensor) -> None:
        self._optimiser.zero_grad()
        batch = samples.take(chosen, self._place.device)
        if len(batch) != PAIR:
            raise InvalidJob(f"a pipeline trains on (features, labels); the task's batches have {len(batch)} parts")
        features, labels = batch
        losses: list[torch.Tensor] = []
        given: tuple[torch.Tensor, ...] = (features,) if self._first else ()
        with self._precision():
            if self._last:
                self._schedule(len(chosen)).step(*given, target=labels, losses=losses)
            else:
                self._schedule(len(chosen)).step(*given)
        if losses:
            self._total += torch.stack([loss.detach().double() for loss in losses]).mean() * len(chosen)
        if self._train.clip:
            clip((value.grad for value in self._model.parameters()), self._train.clip, apart=True)
        self._method.adjust()
        self._optimiser.step()

    def _schedule(self, length: int) -> Any:
        """For a batch of this length, in equal micro-batches: stages learn the shape once, from the first."""
        if length not in self._schedules:
            stage = PipelineStage(self._model, self._place.rank, self.world, self._place.device)
            micro = shares.equal_parts(length, max(self._settings.accumulate, self.world))
            kind = Schedule1F1B if self._settings.schedule == "1f1b" and micro >= self.world else ScheduleGPipe
            self._schedules[length] = kind(stage, micro, loss_fn=self._loss)
        return self._schedules[length]

    def _loss(self, output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The task's, of a model whose answer is here already."""
        return self._task.loss(torch.nn.Identity(), (output, labels))

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self._settings.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self._place.device.type, torch.bfloat16)

    def total(self) -> float:
        dist.all_reduce(self._total)
        found = float(self._total)
        self._total.zero_()
        return found

    def weights(self) -> Vector | None:
        """Each rank's part is sent to rank 0."""
        own = self._model.state_dict()
        if not self._first:
            flat = torch.cat([own[name].float().reshape(-1) for name in own] or [torch.empty(0)])
            dist.send(flat.to(self._place.device), 0)
            return None
        found = {name: value.cpu().numpy() for name, value in own.items()}
        for rank in range(1, self.world):
            slots = [slot for slot in self.layout.slots if slot.name.partition(".")[0] in self._stages[rank]]
            flat = torch.empty(sum(slot.size for slot in slots), device=self._place.device)
            dist.recv(flat, rank)
            found |= Layout(tuple(slots)).unflatten(flat.cpu().numpy())
        return self.layout.flatten(found)

    def state(self) -> dict[str, Any]:
        total = torch.tensor(self.total(), dtype=torch.float64)
        self._total.fill_(total.item() if self._first else 0.0)
        optimiser = optimiser_state(self._model, self._optimiser)
        return {"model": self._model.state_dict(), "optimiser": optimiser, "total": total}

    def restore(self, state: dict[str, Any]) -> None:
        restore_optimiser(self._model, self._optimiser, state["optimiser"])
        self._total.fill_(state["total"].item() if self._first else 0.0)


def _cut(model: torch.nn.Module, stages: int) -> list[tuple[int, int]]:
    """Runs of layers, balanced by parameters. Raises InvalidJob."""
    if not isinstance(model, torch.nn.Sequential):
        raise InvalidJob(f"a pipeline needs an nn.Sequential, not {type(model).__name__}", hint="make its layers one")
    layers = list(model.children())
    sizes = [1 + sum(value.numel() for value in layer.parameters()) for layer in layers]
    try:
        found = shares.cut(sizes, stages)
    except ValueError as error:
        raise InvalidJob(f"a pipeline of {stages} processes: {error}") from error
    parts = [{id(value) for layer in layers[low:high] for value in layer.parameters()} for low, high in found]
    if sum(map(len, parts)) != len({one for part in parts for one in part}):
        raise InvalidJob("a parameter is shared by two stages of the pipeline", hint="untie it, or fewer processes")
    return found
