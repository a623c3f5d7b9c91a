"""From a float graph to int8: recipes, each one call of onnxruntime's quantiser, and the repairs around it.

Activations are unsigned: on x86 that is the fast kernel (a ResNet-8 runs 2.3 times as fast as with signed ones). But
where a CPU has no VNNI that kernel adds pairs of products in 16 bits and may saturate, so the first recipe keeps
weights to 7 bits and gives the same answers everywhere; the full range is tried only when the gate refuses it.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, version_converter
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from msrt.errors import InvalidModel, MsrtError
from msrt.inference.engine import Engine
from msrt_cloud.graph import drop_unused, float_bytes, fold_dequantised_weights, initialiser_bytes, read_graph
from msrt_cloud.room import is_full
from msrt_cloud.samples import Samples

__all__ = ["DYNAMIC", "RECIPES", "Recipe", "float_copy", "quantise", "recipes_for", "weight_bytes_ratio"]

_OPSET: Final = 17
"""Raised to where older: scales per channel need 13."""
_CALIBRATION_ROWS: Final = 512
"""Samples used, evenly taken: more change the ranges little and cost time and memory."""
_CONVOLUTIONS: Final = frozenset({"Conv", "ConvTranspose"})
_MATMULS: Final = frozenset({"MatMul", "Gemm"})

FAULTS: Final = (
    MsrtError, ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, OSError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip
"""What the quantiser raises on a graph that it does not understand: it has no errors of its own."""


@dataclass(frozen=True)
class Recipe:
    """One way to int8."""

    name: str
    static: bool
    reduce_range: bool = True
    percentile: bool = False
    per_channel: bool = True


RECIPES: Final = (
    Recipe("static, per channel, 7 bits", static=True),
    Recipe("static, per channel, 8 bits, percentile", static=True, reduce_range=False, percentile=True),
)
DYNAMIC: Final = Recipe("dynamic", static=False)


def recipes_for(operators: tuple[str, ...], *, calibrated: bool) -> tuple[Recipe, ...]:
    """What is worth trying, best first. Never dynamic for a convolution: it is ten times as slow as float."""
    found = set(operators)
    if not found & (_CONVOLUTIONS | _MATMULS):
        return ()
    dynamic = () if found & _CONVOLUTIONS else (DYNAMIC,)
    return (*RECIPES, *dynamic) if calibrated else dynamic


def float_copy(path: Path, out: Path) -> tuple[Path, int]:
    """The graph made ready for the quantiser (plain weights, a new opset, folded constants), and its weights' bytes.

    Raises InvalidModel where the tools cannot follow the graph.
    """
    model = read_graph(path)
    fold_dequantised_weights(model)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), _OPSET)
    plain, ready = out / "plain.onnx", out / "ready.onnx"
    try:
        with _quiet():
            if opset < _OPSET:
                model = version_converter.convert_version(model, _OPSET)
            onnx.save(model, plain)
            quant_pre_process(plain, ready, skip_symbolic_shape=True)
            return ready, float_bytes(onnx.load(ready))
    except FAULTS as error:
        if is_full(error):
            raise
        raise InvalidModel(f"the graph cannot be made ready for int8: {_line(error)}") from error


def quantise(ready: Path, target: Path, recipe: Recipe, samples: Samples | None) -> Path:
    """Write the int8 model. Raises InvalidModel where the recipe does not work on this graph."""
    try:
        with _quiet():
            if recipe.static:
                assert samples is not None
                method = CalibrationMethod.Percentile if recipe.percentile else CalibrationMethod.MinMax
                quantize_static(
                    ready,
                    target,
                    _Reader(ready, samples),
                    quant_format=QuantFormat.QDQ,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    per_channel=recipe.per_channel,
                    reduce_range=recipe.reduce_range,
                    calibrate_method=method,
                )
            else:
                quantize_dynamic(
                    ready,
                    target,
                    weight_type=QuantType.QInt8,
                    per_channel=recipe.per_channel,
                    reduce_range=recipe.reduce_range,
                )
            model = onnx.load(target)
    except FAULTS as error:
        if is_full(error):
            raise
        raise InvalidModel(f"{recipe.name}: {_line(error)}") from error
    _drop_zero_points(model)
    onnx.save(model, target)
    return target


def weight_bytes_ratio(path: Path, full: int) -> float:
    """Bytes of all initialisers, scales and zero points and what stayed float included, over the same in float32."""
    return initialiser_bytes(onnx.load(path)) / full if full else 1.0


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
    """Feeds calibration samples one by one."""

    def __init__(self, ready: Path, samples: Samples) -> None:
        model = Engine().load(ready.read_bytes())
        step = max(1, len(samples) // _CALIBRATION_ROWS)
        every = Samples({name: array[::step] for name, array in samples.inputs.items()})
        self._feeds: Iterator[dict[str, NDArray[Any]]] = every.feeds(model)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._feeds, None)


def _drop_zero_points(model: onnx.ModelProto) -> None:
    """Forget per-channel zero points of convolutions that are all zero, which is what an absent one means.

    Their five bytes a channel are a twentieth of a MobileNet. Those of MatMul stay: without them onnxruntime does not
    fuse it, and it runs fifteen times as slow.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    of_convolutions = {name for node in model.graph.node if node.op_type in _CONVOLUTIONS for name in node.input}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or len(node.input) < 3 or node.input[0] not in constants:
            continue
        zero = constants.get(node.input[2])
        if zero is None or node.output[0] not in of_convolutions or not zero.dims:
            continue
        if not numpy_helper.to_array(zero).any():
            del node.input[2:]
    drop_unused(model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser prints to standard output, where the verdict goes, and warns of what we do on purpose."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        root.setLevel(before)


def _line(error: BaseException) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:200]
