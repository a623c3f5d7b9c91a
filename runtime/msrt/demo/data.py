"""The real data of the demo: the example job, and the images it holds out, which no device has trained on."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import msrt
from msrt.demo.tree import DemoFailed

__all__ = ["example", "held_out", "record"]


def example() -> Path:
    """The job's folder: beside this package when installed, in the repository else. Raises DemoFailed."""
    here = Path(msrt.__file__).parent
    for folder in (here.parent / "msrt_examples" / "digits", here.parents[1] / "deploy" / "examples" / "digits"):
        if (folder / "job.toml").exists():
            return folder
    raise DemoFailed("the example job is not here", hint="install msrt from a wheel, or run from its repository")


def held_out(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images and labels that judge fold 0. Raises DemoFailed without scikit-learn."""
    spec = importlib.util.spec_from_file_location("msrt_demo_digits", folder / "digits.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        pixels, labels = module.digits()
    except FileNotFoundError as error:
        raise DemoFailed(
            "the demo needs the digits of scikit-learn", hint="pip install 'msrt[cloud,edge,device,train]'"
        ) from error
    test = module.held_out(len(labels), 0, 0)
    return pixels[test], labels[test]


def record(folder: Path, rows: NDArray[np.float32], interval_s: float) -> Path:
    """Write a device's config with one sensor: a recording of these rows, replayed once. Returns the config's path."""
    folder.mkdir(parents=True, exist_ok=True)
    recording, config = folder / "camera.npy", folder / "camera.toml"
    np.save(recording, rows)
    config.write_text(
        f'[[source]]\nname = "camera"\nmodel = "digits"\nkind = "replay"\npath = "{recording}"\n'
        f"interval_s = {interval_s:g}\n"
    )
    return config
