"""Calibration and evaluation data: files to arrays that fit a model, rows to feed it with."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from msrt.errors import InvalidTensor
from msrt.inference.model import Model
from msrt.inference.tensors import NUMPY_NAMES
from msrt.protocol.messages import TensorSpec

__all__ = ["Samples", "load_evaluation", "load_samples", "outputs_of"]

Array = NDArray[Any]

_BATCH: Final = 64
_MAGIC: Final = (b"\x93NUMPY", b"PK")
_LONGEST: Final = 6
_SAVE: Final = "save it with np.save or np.savez"
_CLEAN: Final = "leave such samples out, or give them a value"


@dataclass(frozen=True)
class Samples:
    """Inputs by name, samples along axis 0, and labels where there are some."""

    inputs: dict[str, Array]
    labels: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def feeds(self, model: Model, *, rows: int = 1) -> Iterator[dict[str, Array]]:
        """What to call the model with, `rows` samples at a time.

        A sample is one row of axis 0, except where the model's input has a dimension less than the data and no
        batch: then it is one element along the data's axis 0.
        """
        ranks = {spec.name: len(spec.shape) for spec in model.inputs}
        for start in range(0, len(self), rows):
            yield {
                name: array[start : start + rows] if array.ndim == ranks[name] else array[start]
                for name, array in self.inputs.items()
            }

    def shapes(self, model: Model) -> dict[str, tuple[int, ...]]:
        """The shape of one sample by input."""
        return {name: array.shape for name, array in next(self.feeds(model)).items()}


def load_samples(path: Path, inputs: tuple[TensorSpec, ...]) -> Samples:
    """X.npy for a model of one input, or an .npz of arrays by input name. Raises InvalidTensor."""
    found = _read(path)
    if isinstance(found, dict):
        return Samples(_named(found, inputs, path.name))
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise InvalidTensor(f"the model has inputs {names}, {path.name} has one array", hint="save an .npz by name")
    return Samples(_checked({inputs[0].name: found}, inputs, path.name))


def load_evaluation(path: Path, inputs: tuple[TensorSpec, ...]) -> Samples:
    """An .npz with `x` (or arrays by input name) and integer labels `y`. Raises InvalidTensor."""
    found = _read(path)
    if not isinstance(found, dict) or "y" not in found:
        raise InvalidTensor(f"{path.name} has no labels", hint="save with np.savez(file, x=..., y=...)")
    labels = found.pop("y")
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise InvalidTensor(f"labels are whole numbers, one a sample, not {labels.dtype} {list(labels.shape)}")
    if "x" in found and len(inputs) == 1 and inputs[0].name != "x":
        found = {inputs[0].name: found["x"]}
    samples = Samples(_named(found, inputs, path.name), labels)
    if len(samples) != len(labels):
        raise InvalidTensor(f"{path.name} has {len(samples)} samples and {len(labels)} labels")
    return samples


def outputs_of(model: Model, samples: Samples, *, batchable: bool) -> Array:
    """The first output for every sample, concatenated. Raises InvalidTensor, ModelFailed."""
    name = model.outputs[:1]
    parts = [model.run(feed, [name[0].name])[0] for feed in samples.feeds(model, rows=_BATCH if batchable else 1)]
    return np.concatenate([np.atleast_1d(part) for part in parts])


def _read(path: Path) -> Array | dict[str, Array]:
    try:
        with path.open("rb") as file:
            if not file.read(_LONGEST).startswith(_MAGIC):  # else numpy speaks of pickles
                raise InvalidTensor(f"{path.name} is neither .npy nor .npz", hint=_SAVE)
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidTensor(f"cannot read {path.name}: {error}", hint=_SAVE) from error


def _named(found: dict[str, Array], inputs: tuple[TensorSpec, ...], file: str) -> dict[str, Array]:
    names = {spec.name for spec in inputs}
    if set(found) != names:
        raise InvalidTensor(f"{file} has arrays {sorted(found)}, the model has inputs {sorted(names)}")
    return _checked(found, inputs, file)


def _checked(found: dict[str, Array], inputs: tuple[TensorSpec, ...], file: str) -> dict[str, Array]:
    checked: dict[str, Array] = {}
    counts = {len(array) if array.ndim else 0 for array in found.values()}
    if len(counts) != 1 or not counts - {0}:
        raise InvalidTensor(f"{file}: every array needs the same number of samples, at least one, along axis 0")
    for spec in inputs:
        array = found[spec.name]
        wanted = np.dtype(NUMPY_NAMES.get(spec.dtype, "object"))
        if wanted.kind == "f" and array.dtype.kind in "fiu":
            array = array.astype(wanted)
        elif array.dtype != wanted:
            raise InvalidTensor(f"{file}: input {spec.name!r} takes {spec.dtype}, the array is {array.dtype}")
        sample = spec.shape[1:] if array.ndim == len(spec.shape) else spec.shape
        if len(sample) != array.ndim - 1 or any(w not in (-1, g) for w, g in zip(sample, array.shape[1:], strict=True)):
            raise InvalidTensor(
                f"{file}: input {spec.name!r} takes {list(spec.shape)}, the array is {list(array.shape)}"
            )
        if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
            row = int(np.argmin(finite.reshape(len(array), -1).all(axis=1)))
            raise InvalidTensor(f"{file}: input {spec.name!r} is NaN or infinite in sample {row}", hint=_CLEAN)
        checked[spec.name] = array
    return checked
