"""The graphs that a push brings beside its model: looked at as the model is, and run around it while it is prepared."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msrt.errors import InvalidModel, InvalidTensor
from msrt.inference.bundle import Stage
from msrt.inference.engine import Engine, LoadedModel
from msrt.inference.model import Model
from msrt.inference.pipeline import Graphs, Pipeline, join
from msrt.protocol.messages import TensorSpec
from msrt_cloud.graph import read_graph
from msrt_cloud.samples import Samples

__all__ = ["Stages", "load_stages"]


@dataclass(frozen=True)
class Stages:
    """What runs before and after the model, if anything does."""

    pre: LoadedModel | None
    post: LoadedModel | None
    graphs: Graphs
    """The model's own left empty."""

    def around(self, model: Model) -> Model:
        """The model as it will be served. Raises InvalidModel where the stages do not fit it."""
        return Pipeline(model, self.pre, self.post) if self.pre or self.post else model

    def inner(self, samples: Samples, model: Model) -> Samples:
        """What the model itself is given of them. Raises InvalidTensor, ModelFailed."""
        if self.pre is None:
            return samples
        names, inputs = join("the pre-processing graph", self.pre.outputs, "the model", model.inputs)
        given = [self.pre.run(feed, names) for feed in samples.feeds(self.pre)]
        arrays = [_stacked(name, [found[index] for found in given]) for index, name in enumerate(names)]
        return Samples(dict(zip(inputs, arrays, strict=True)), samples.labels)

    def manifest(self) -> dict[str, Stage]:
        """By the name of the manifest's field."""
        graphs = {"pre": self.graphs.pre, "post": self.graphs.post}
        return {name: Stage(hashlib.sha256(data).hexdigest(), len(data)) for name, data in graphs.items() if data}

    def report(self) -> dict[str, object]:
        """What each takes and gives."""
        stages = {"pre": self.pre, "post": self.post}
        return {name: f"{_all(one.inputs)} -> {_all(one.outputs)}" for name, one in stages.items() if one}


def load_stages(pre: str, post: str) -> Stages:
    """Read and load what was given by path. Raises InvalidModel, which says which of them is at fault."""
    loaded: list[LoadedModel | None] = []
    data: list[bytes] = []
    for path, what in ((pre, "pre-processing"), (post, "post-processing")):
        if not path:
            loaded.append(None)
            data.append(b"")
            continue
        try:
            read_graph(Path(path))
            data.append(Path(path).read_bytes())
            loaded.append(Engine().load(data[-1]))
        except InvalidModel as error:
            raise InvalidModel(f"the {what} graph: {error.text}", hint=error.hint) from error
    return Stages(loaded[0], loaded[1], Graphs(b"", *data))


def _stacked(name: str, found: list[NDArray[Any]]) -> NDArray[Any]:
    """One array of all samples; axis 0 is theirs, or becomes it."""
    if len({array.shape for array in found}) > 1:
        raise InvalidTensor(
            f"{name!r} of the pre-processing graph has another shape from sample to sample",
            hint="calibrate with samples of one size",
        )
    joined: NDArray[Any] = np.concatenate(found) if found[0].shape[:1] == (1,) else np.stack(found)
    return joined


def _all(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in specs)
