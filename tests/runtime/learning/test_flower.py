"""Flower as the oracle: its own functions, in an environment of their own, on the same random inputs.

The environment is made under `$XDG_CACHE_HOME/msrt-oracle` on the first run; where pip reaches no registry the tests
are skipped and say so.

Where Flower differs from a paper, or from itself: its older Bulyan (`flwr.server.strategy.aggregate`) selects as the
paper does, one Krum after the other; the newer one (`flwr.serverapp`) takes one multi-Krum's choice instead. Its
multi-Krum weighs the chosen by their samples, here all count the same. Its adaptive optimisers begin with v = 0, Reddi
2021 with tau^2; its FedAdam corrects a bias with one round too many, so Adam's oracle is torch (test_optimise).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from msrt.learning.compress import open_codec
from msrt.learning.optimise import Kind, Optimiser, Recipe
from msrt.learning.rules import Robust, open_rule
from msrt.learning.vector import Vector

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FLOWER = "flwr==1.42.0"
RULES = ("median", "trimmed:0.1", "trimmed:0.34", "krum:1", "krum:3", "multi-krum:2:5", "bulyan:1", "bulyan:2")
OPTIMISERS: tuple[Kind, ...] = ("momentum", "yogi", "adagrad")
SHAPES = ((40, 30), (30,), (30, 7, 2), (7,))
ASK = """
import sys
import numpy as np
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import strategy
from flwr.server.strategy import aggregate as flower

given = dict(np.load(sys.argv[1]))
out = {}
shapes = eval(sys.argv[2])
cuts = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
layers = lambda flat: [part.reshape(shape) for part, shape in zip(np.split(flat, cuts), shapes)]
flat = lambda found: np.concatenate([np.ravel(part) for part in found])
for key, stack in given.items():
    kind, _, rest = key.partition("/")
    name, *numbers = rest.partition("/")[0].split(":")
    if kind == "rule":
        results = [(layers(row), 1) for row in stack]
        if name == "median":
            found = flower.aggregate_median(results)
        elif name == "trimmed":
            found = flower.aggregate_trimmed_avg(results, float(numbers[0]))
        elif name == "bulyan":
            found = flower.aggregate_bulyan(results, int(numbers[0]), flower.aggregate_krum, to_keep=0)
        else:
            found = flower.aggregate_krum(results, int(numbers[0]), int(numbers[1]) if numbers[1:] else 0)
        out[key] = flat(found)
    else:
        weights = np.zeros(stack.shape[1], np.float32)
        start = ndarrays_to_parameters([weights])
        made = {
            "momentum": lambda: strategy.FedAvgM(
                initial_parameters=start, server_momentum=0.9, server_learning_rate=0.5
            ),
            "yogi": lambda: strategy.FedYogi(initial_parameters=start, eta=0.5, tau=0.01),
            "adagrad": lambda: strategy.FedAdagrad(initial_parameters=start, eta=0.5, tau=0.01),
        }[name]()
        for number, update in enumerate(stack, 1):
            arrived = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([weights + update]), 1, {})
            parameters, _ = made.aggregate_fit(number, [(None, arrived)], [])
            (weights,) = parameters_to_ndarrays(parameters)
        out[key] = weights
np.savez(sys.argv[3], **out)
"""


def _python() -> str:
    """Of an environment with Flower in it; skips where there is none and none can be made."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "msrt-oracle" / FLOWER.replace("==", "-")
    python, stamp = home / "bin" / "python", home / ".installed"
    if not stamp.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        for argv in (
            [sys.executable, "-m", "venv", str(home)],
            [str(python), "-m", "pip", "install", "--quiet", "--no-input", FLOWER],
        ):
            done = subprocess.run(argv, capture_output=True, text=True, timeout=500, check=False)
            if done.returncode:
                why = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
                pytest.skip(f"{FLOWER} cannot be installed here: {why}")
        stamp.touch()
    return str(python)


def _inputs() -> dict[str, Vector]:
    rng, size = np.random.default_rng(5), sum(int(np.prod(shape)) for shape in SHAPES)
    given = {}
    for rule in RULES:
        for nodes in (11, 12, 23):
            stack = rng.standard_normal((nodes, size)).astype(np.float32)
            stack[:2] *= np.float32(20)
            given[f"rule/{rule}/{nodes}"] = stack
    for kind in OPTIMISERS:
        given[f"server/{kind}"] = rng.standard_normal((8, 500)).astype(np.float32)
    return given


def _rule(rule: str, stack: Vector) -> Vector:
    codec, found = open_codec("fp32", stack.shape[1]), Robust(open_rule(rule), stack.shape[1])
    for row in stack:
        found.add(codec.encode(row), codec, 1.0)
    return found.mean()


def _moved(kind: Kind, stack: Vector) -> Vector:
    beta1 = 0.0 if kind == "adagrad" else 0.9
    optimiser, weights = Optimiser(Recipe(kind, beta1=beta1, epsilon=0.01), 500), np.zeros(500, np.float32)
    for square in optimiser.vectors[1:]:
        square.fill(0)  # as Flower begins
    for update in stack:
        optimiser.step(weights, update, 0.5)
    return weights


def test_rules_and_optimisers_are_those_of_flower(tmp_path: Path) -> None:
    """Median, trimmed mean, Krum, multi-Krum, Bulyan; FedAvgM, FedYogi, FedAdagrad: the same vectors."""
    python, given = _python(), _inputs()
    asked, answered = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(asked, **given)  # type: ignore[arg-type]
    subprocess.run([python, "-c", ASK, str(asked), repr(SHAPES), str(answered)], check=True, timeout=300)
    with np.load(answered) as theirs:
        for key, stack in given.items():
            kind, _, rest = key.partition("/")
            name = rest.rpartition("/")[0]
            ours = _rule(name, stack) if kind == "rule" else _moved(rest, stack)  # type: ignore[arg-type]
            assert np.allclose(ours, theirs[key], atol=2e-5), key
    assert len(given) == len(RULES) * 3 + len(OPTIMISERS)
