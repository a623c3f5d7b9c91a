"""The numerics of one node: local training, evaluation, export, baselines. Runs in the runner (or a bench)."""

from __future__ import annotations

import importlib
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from msrt.errors import InvalidJob
from msrt.learning.vector import Array, Vector
from msrt.training.batches import batches, joined, length_of, prepared
from msrt.training.flat import FlatModel
from msrt.training.methods import FedAvg, Method, Scaffold, method_of
from msrt.training.seeds import number_of, reseed
from msrt.training.settings import JobConfig
from msrt.training.settings.privacy import noise_of
from msrt.training.shelf import Keeper, Memory, Shelf
from msrt.training.task import Data, Node, Task
from msrt.training.travel import Travel

__all__ = ["Bound", "Fitted", "Local", "load_task"]

EVAL_BATCH: Final = 1024


class Bound(NamedTuple):
    """Where a node stops early, at the end of a batch; never before its first."""

    work: float = 1.0
    """Share of the batches of all its epochs."""
    until: float = math.inf
    """On the clock."""


class Fitted(NamedTuple):
    """What training showed: mean loss of the last epoch, share of all epochs done, steps."""

    loss: float
    work: float
    steps: int


PLAIN: Final = FedAvg()
WHOLE: Final = Bound()


class Local:
    """A task with its settings; keeps one model and each node's data between rounds.

    Everything is deterministic in (seed, round, node index): a round trained again gives the same update, unless time
    was what ended it. `now` is the clock for that, in seconds.
    """

    def __init__(self, task: Task, config: JobConfig, now: Callable[[], float] = lambda: 0.0) -> None:
        self.task, self.config, self.now = task, config, now
        torch.manual_seed(config.seed)
        self.model = task.model()
        self._flat = FlatModel(self.model)
        controlled = [name for name, own in self.model.named_parameters() if own.requires_grad]
        scaffold = config.train.algorithm == "scaffold"
        self._travel = Travel(self._flat.layout, config.train.keep_local, controlled if scaffold else ())
        self.layout = self._travel.layout
        """Of what travels: see `Travel`."""
        self._initial = self._flat.vector().copy()
        self._keepers: dict[str, Keeper] = {}
        self._data: dict[tuple[str, int, int], tuple[Data, Data]] = {}
        self.noise = 0.0
        """Of [privacy] mode "sample", over its clip: what the round asks for."""

    def initial(self) -> Vector:
        """The weights everybody starts from; the seed decides."""
        controls = np.zeros(self._travel.controlled.size, np.float32)
        return np.concatenate([self._travel.sent(self._initial), controls])

    def put(self, weights: Vector, kept: Vector | None = None) -> None:
        """Load a travelling vector into the model, beside a node's own tensors, or those that all began with.

        Raises InvalidJob for one of another size.
        """
        if weights.size != self.layout.size:
            raise InvalidJob(f"the vector has {weights.size} elements, the model {self.layout.size}")
        travel = self._travel
        self._flat.put(travel.whole(weights, travel.kept(self._initial) if kept is None else kept))

    def vector(self) -> Vector:
        """The model's weights now. Valid until they are trained or loaded again."""
        return self._flat.vector()

    def gradient(self, out: Vector) -> None:
        """Of every element, as the last backward passes left it. Raises InvalidJob for a model that keeps buffers."""
        self._flat.gradient(out)

    def judge(self, test: Data) -> dict[str, float]:
        """Means over test data, with the weights that the model has."""
        return self._judge(test)

    def data(self, node: Node) -> tuple[Data, Data]:
        """(train, test) of a node, loaded once."""
        key = (node.id, node.index, node.count)
        if key not in self._data:
            train, test = self.task.data(node)
            self._data[key] = (prepared(train), prepared(test))
        return self._data[key]

    def train(
        self,
        weights: Vector,
        node: Node,
        round_: int,
        *,
        work: float = 1.0,
        within: float = 0.0,
        keeper: Keeper | None = None,
        counted: int | None = None,
    ) -> tuple[Vector, int, dict[str, float]]:
        """(delta of what travels, samples, metrics). Raises InvalidJob where the node has no data.

        The delta lies where the model was: it is valid until the next call.

        A straggler does the share `work` of its epochs, or what it can in `within` seconds (0: all); the metric `work`
        is what it has done. What the node keeps to itself lies with `keeper`, or in memory. `counted` is the newest
        round whose update of it is in the model; left out, the newest that it trained.
        """
        keeper = keeper or self._keepers.setdefault(node.id, Memory())
        soonest = min((limit for limit in (within, self.config.train.within_s) if limit), default=math.inf)
        bound = Bound(work, self.now() + soonest)
        train, test = self.data(node)
        if not length_of(train):
            raise InvalidJob(f"node {node.id} has no training data")
        own = self._recall(keeper, "head", round_, self._travel.kept(self._initial))
        self.put(weights, own)
        metrics = self._judge(test)
        start = self._travel.whole(weights, own)
        method = self._method(weights, keeper, round_ if counted is None else min(counted + 1, round_))
        seed = (self.config.seed, round_, node.index)
        privacy = self.config.privacy
        if privacy is not None and privacy.mode == "sample":
            from msrt.training.samples import fit  # noqa: PLC0415 - brings Opacus

            fitted = fit(self, train, seed, noise_of(privacy, self.noise), bound)
        else:
            fitted = self._fit(train, self.config.train.epochs, seed, method, bound)
        metrics |= {"train_loss": fitted.loss, "work": fitted.work}
        return self._left(keeper, round_, start, method, fitted), length_of(train), metrics

    def _method(self, weights: Vector, keeper: Keeper, round_: int) -> Method:
        """Of this round, with what the node kept of an earlier one."""
        settings, travel = self.config.train, self._travel
        if settings.algorithm == "scaffold":
            own = self._recall(keeper, "control", round_, np.zeros(travel.controlled.size, np.float32))
            return Scaffold(travel.controlled, travel.control(weights), own)
        return method_of(settings)

    def _left(self, keeper: Keeper, round_: int, start: Vector, method: Method, fitted: Fitted) -> Vector:
        """What travels of a round; what stays is kept."""
        travel = self._travel
        if travel.keeps:
            keeper.keep("head", round_, travel.kept(self._flat.vector()).tobytes())
        way = self._flat.since(start)
        if not isinstance(method, Scaffold):
            return travel.sent(way)
        fresh = method.finish(travel.trained(way), fitted.steps)
        keeper.keep("control", round_, fresh.tobytes())
        return np.concatenate([travel.sent(way), fresh - method.own])

    def _recall(self, keeper: Keeper, name: str, round_: int, first: Vector) -> Vector:
        """What the node kept, or what it begins with; a broken file is as good as none."""
        if not first.size:
            return first
        state = keeper.before(name, round_)
        return np.frombuffer(state, np.float32) if state and len(state) == first.nbytes else first

    def evaluate(self, weights: Vector, nodes: Sequence[Node]) -> tuple[int, dict[str, float]]:
        """(samples, means) over the test data of all nodes together."""
        self.put(weights)
        return self._judged(nodes)

    def _judged(self, nodes: Sequence[Node]) -> tuple[int, dict[str, float]]:
        parts = [(test, length_of(test)) for _, test in map(self.data, nodes)]
        samples = sum(length for _, length in parts)
        total: dict[str, float] = {}
        for test, length in parts:
            for name, value in self._judge(test).items():
                total[name] = total.get(name, 0.0) + value * length / samples
        return samples, total

    def baseline(self, nodes: Sequence[Node]) -> tuple[list[float], float]:
        """(accuracy of each node alone, accuracy of pooled data), judged on the test data of all nodes; alone on its
        own, where nodes keep a part of the model to themselves.
        """
        settings = self.config.baseline
        epochs = (settings.epochs if settings else 0) or self.config.rounds * self.config.train.epochs
        start = self.initial()
        alone = []
        for node in nodes:
            self.put(start)
            self._fit(self.data(node)[0], epochs, (self.config.seed, -3, node.index))
            alone.append(self._accuracy([node] if self._travel.keeps else nodes))
        self.put(start)
        self._fit(joined([self.data(node)[0] for node in nodes]), epochs, (self.config.seed, -2, 0))
        return alone, self._accuracy(nodes)

    def _accuracy(self, nodes: Sequence[Node]) -> float:
        return self._judged(nodes)[1].get("accuracy", 0.0)

    def _fit(
        self, train: Data, epochs: int, seed: tuple[int, int, int], method: Method = PLAIN, bound: Bound = WHOLE
    ) -> Fitted:
        """Train the model in place."""
        settings = self.config.train.at(seed[1])
        number = number_of(*seed)
        generator = torch.Generator().manual_seed(number)
        reseed(number)
        optimiser = self.task.optimiser(self.model, settings)
        method.begin(self.model, optimiser)
        self.model.train()
        total, seen, steps = 0.0, 0, 0
        whole = epochs * math.ceil(length_of(train) / settings.batch)
        most = min(whole, max(1, round(bound.work * whole)))
        over = not most
        while not over:
            total, seen = 0.0, 0
            for batch in batches(train, settings.batch, generator):
                optimiser.zero_grad()
                loss = self.task.differentiate(self.model, batch)
                if settings.clip:
                    torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
                method.adjust()
                optimiser.step()
                samples = len(batch[0])
                total += float(loss) * samples
                seen += samples
                steps += 1
                over = steps >= most or self.now() >= bound.until
                if over:
                    break
        return Fitted(total / max(seen, 1), steps / whole if whole else 0.0, steps)

    def _judge(self, test: Data) -> dict[str, float]:
        if not length_of(test):
            return {}
        self.model.eval()
        with torch.inference_mode():
            return self.task.evaluate(self.model, batches(test, EVAL_BATCH, None))

    def personal(self, weights: Vector, shelf: Shelf, most: int, path: str) -> int:
        """`export` the model as the node has it that owns the shelf: with what it kept of the newest round up to
        `most`, which is returned. Raises InvalidJob where the job keeps nothing, or this node has nothing of it.
        """
        first = self._travel.kept(self._initial)
        if not first.size:
            raise InvalidJob("its model is the same on all nodes", hint="[train] keep_local names what nodes keep")
        found = shelf.newest("head", most)
        if found is None or len(found[1]) != first.nbytes:
            raise InvalidJob("this node has kept no part of the model: its updates are in no round so far")
        self.export(weights, path, np.frombuffer(found[1], np.float32))
        return found[0]

    def export(self, weights: Vector, path: str, kept: Vector | None = None) -> None:
        """Write the model as one ONNX file with a free batch axis: inputs `input`, `input_1` ..., output `output`."""
        self.put(weights, kept)
        self.model.eval()
        example = self.task.example()
        if example is None:
            train, _ = self.data(Node("export"))
            example = (next(batches(train, 2, None))[0],)
        names = ["input", *(f"input_{at}" for at in range(1, len(example)))]
        axes = {name: {0: "batch"} for name in [*names, "output"]}
        with warnings.catch_warnings():
            # The TorchScript exporter gives plain Gemm and Relu in a tenth of a second; its successor takes three.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                self.model, example, path, input_names=names, output_names=["output"], dynamic_axes=axes, dynamo=False
            )

    def reference(self) -> tuple[Array, tuple[Array, Array]] | None:
        """(calibration features, (features, labels)) as arrays, where the task gives some."""
        found = self.task.reference()
        if found is None:
            return None
        calibration, evaluation = map(prepared, found)
        features, labels = evaluation[0], evaluation[1]
        return calibration[0].numpy(), (features.numpy(), labels.numpy())


def load_task(spec: str, sources: Path, options: Mapping[str, Any]) -> Task:
    """The Task that `module:Class` names, imported from the bundle's directory. Raises InvalidJob."""
    module, _, attribute = spec.partition(":")
    sys.path.insert(0, str(sources))
    _forget(sources)
    try:
        kind = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        hint = "job.toml: task = 'module:Class'" if error.name == module else "install it on this node"
        raise InvalidJob(f"no module {error.name!r}", hint=hint) from error
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise InvalidJob(f"{spec} is not a msrt.Task", hint="job.toml: task = 'module:Class'")
    task: Task = kind(options)
    return task


_BUNDLES: Final = set[Path]()
"""Where this process loaded tasks from."""


def _forget(sources: Path) -> None:
    """Modules of an earlier bundle have the same names as this one's: they must not be taken for them."""
    here = sources.resolve()
    for path in here.glob("*.py"):
        known = getattr(sys.modules.get(path.stem), "__file__", None)
        if known is not None and Path(known).resolve().parent in _BUNDLES - {here}:
            del sys.modules[path.stem]
    _BUNDLES.add(here)
