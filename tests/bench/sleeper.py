"""A device whose models take a stated time: `python -m tests.bench.sleeper FILE device join ...`.

The real device process, but that each row of a model sleeps first for as many seconds as FILE says at that moment:
service time that costs no processor, so that many devices fit a small machine. Only here: no product has such a switch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from msrt.cli import main
from msrt.inference.engine import LoadedModel
from tests.bench.tree import Proc, Tree

SERVICE_S = 0.02


def start(tree: Tree, name: str, seconds: float = SERVICE_S) -> Proc:
    """One more such device, or one that is started again."""
    pace = tree.path / f"{name}.pace"
    pace.write_text(str(seconds))
    known = (tree.path / name).exists()
    invite = [] if known else [tree.invite("device", "--region", "north"), "--name", name]
    argv = [sys.executable, "-m", "tests.bench.sleeper", str(pace), "device", "join", *invite]
    argv += ["--state", str(tree.path / name), "--set", "engine_queue=1024"]
    proc = tree.procs[name] = Proc(argv, tree.path / f"{name}.log")
    return proc.ready()


def fleet(tree: Tree, count: int, first: int = 0) -> list[Proc]:
    """So many at once, a few at a time."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda n: start(tree, f"d{n}"), range(first, first + count)))


def set_pace(tree: Tree, name: str, seconds: float) -> None:
    """From its next request on."""
    new = tree.path / f"{name}.pace.new"
    new.write_text(str(seconds))
    new.replace(tree.path / f"{name}.pace")


def push(tree: Tree) -> None:
    """The small MLP as it is, on all devices."""
    from tests.bench.tree import mlp  # noqa: PLC0415 - a device has no use for onnx

    file = tree.path / "mlp.onnx"
    file.write_bytes(mlp())
    tree.cli("model", "push", str(file), "--name", "mlp")
    tree.cli("model", "rollout", "mlp", "--window", "0.5")


def _slow(pace: Path) -> None:
    run = LoadedModel.run

    def slept(self: LoadedModel, inputs: dict[str, Any], names: Sequence[str] = ()) -> list[Any]:
        rows = next((int(array.shape[0]) for array in inputs.values() if array.ndim), 1)
        time.sleep(float(pace.read_text()) * rows)
        return run(self, inputs, names)

    LoadedModel.run = slept  # type: ignore[method-assign]


if __name__ == "__main__":
    _slow(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
