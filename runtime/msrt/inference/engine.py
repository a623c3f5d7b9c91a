"""The only file that knows onnxruntime: a model's bytes in, something that runs out, its errors turned into ours."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from msrt.buffers import Buffer
from msrt.errors import InvalidModel, InvalidTensor, ModelFailed, MsrtError, OutOfMemory
from msrt.inference.bundle import StateTensor
from msrt.protocol.messages import TensorSpec

__all__ = ["Engine", "LoadedModel"]

Array = NDArray[Any]


_FATAL_ONLY: Final = 4
"""onnxruntime's own stderr lines would only repeat the exception that we turn."""

_BFLOAT16: Final = 16
"""ONNX's number of the type."""
_OIP_OF_ORT: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(bfloat16)": "BF16",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

_state = ort.capi.onnxruntime_pybind11_state
_ORT_ERRORS: Final = (
    *(
        getattr(_state, name)
        for name in (
            "EPFail",
            "EngineError",
            "Fail",
            "InvalidArgument",
            "InvalidGraph",
            "InvalidProtobuf",
            "ModelLoaded",
            "ModelRequiresCompilation",
            "NoModel",
            "NoSuchFile",
            "NotImplemented",
            "RuntimeException",
        )
        if hasattr(_state, name)
    ),
    MemoryError,
    RuntimeError,
    ValueError,
    TypeError,
)
"""All that a session raises: its own classes share no root, and the Python half adds the built-in ones."""

_CALLERS_FAULT: Final = (_state.InvalidArgument, ValueError, TypeError)

_NO_MEMORY: Final = re.compile(r"std::bad_alloc|[Ff]ailed to allocate memory")
"""Mostly it is an error of another kind that says so in its text only."""
_UNKNOWN_OPERATOR: Final = (
    re.compile(r"No Op registered for (\S+) with"),
    re.compile(r"error: (\S+?)\(-?\d+\) is not a registered function/op"),
    re.compile(r"Could not find an implementation for (\S+?)\(\d+\)"),
)


class Engine:
    """How this machine runs models: threads and memory. One engine loads many models."""

    def __init__(self, *, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.enable_cpu_mem_arena = False  # an arena keeps the peak of every batch size ever seen
        options.log_severity_level = _FATAL_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._options: Final = options

    def load(self, model: Buffer) -> LoadedModel:
        """Blocking, tens of milliseconds and more. Raises InvalidModel, which names an unknown operator,
        and OutOfMemory."""
        try:
            session = ort.InferenceSession(bytes(model), self._options, providers=["CPUExecutionProvider"])
        except _ORT_ERRORS as error:
            raise _turned(error) from error
        session.disable_fallback()
        session._model_bytes = None  # noqa: SLF001 - kept to load the file anew elsewhere: a second copy of the weights
        return LoadedModel(session)


class LoadedModel:
    """One session. `inputs` and `outputs` have -1 for free dimensions; `symbols` their names in the graph."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.inputs: Final = tuple(_spec(arg) for arg in session.get_inputs())
        self.outputs: Final = tuple(_spec(arg) for arg in session.get_outputs())
        self.symbols: Final[dict[str, tuple[str, ...]]] = {
            arg.name: tuple(dim if isinstance(dim, str) else "" for dim in arg.shape) for arg in session.get_inputs()
        }
        self.pairs: Final[tuple[StateTensor, ...]] = ()
        if not self.inputs or not self.outputs:
            raise InvalidModel("the model has no inputs or no outputs")
        self.output_names: Final = [spec.name for spec in self.outputs]
        self._halves: Final = frozenset(spec.name for spec in (*self.inputs, *self.outputs) if spec.dtype == "BF16")
        self._session: Final = session
        self._run: Final[Callable[..., list[Array]]] = self._run_bits if self._halves else _straight(session)

    def run(self, inputs: dict[str, Array], names: Sequence[str] = ()) -> list[Array]:
        """The outputs in the graph's order, or the named ones.

        Raises InvalidTensor where the inputs do not fit, ModelFailed where the model failed on inputs that do,
        OutOfMemory among them.
        """
        try:
            return self._run(names or self.output_names, inputs)
        except _CALLERS_FAULT as error:
            raise InvalidTensor(f"the model refused its inputs: {_first_line(error)}") from error
        except _ORT_ERRORS as error:
            if _short(error):
                raise OutOfMemory("no memory was left for the model's tensors") from error
            raise ModelFailed(f"the model failed: {_first_line(error)}") from error

    def _run_bits(self, names: Sequence[str], inputs: dict[str, Array]) -> list[Array]:
        """With BF16 among its tensors, which are passed and taken as their bits: the session's own way knows no such
        array."""
        given = {
            name: _of_bits(array) if name in self._halves else ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in inputs.items()
        }
        found = self._session.run_with_ort_values(list(names), given)
        return [_bits(one) if name in self._halves else one.numpy() for name, one in zip(names, found, strict=True)]


def _straight(session: ort.InferenceSession) -> Callable[..., list[Array]]:
    """The session's own run without its Python half, which looks at each input again and asks for a graphics card: a
    fifth of a small model's call while all is warm, a quarter of one that comes out of the blue."""
    run: Callable[..., list[Array]] = session._sess.run  # noqa: SLF001 - there is no other way past it
    return lambda names, inputs: run(names, inputs, None)


def _of_bits(array: Array) -> Any:
    if array.dtype != np.uint16:
        raise TypeError(f"BF16 is taken as its bits, not as {array.dtype}")
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), _BFLOAT16)


def _bits(value: Any) -> Array:
    """A BF16 tensor's elements, copied: the memory is the session's."""
    shape = tuple(value.shape())
    count = math.prod(shape)
    if not count:
        return np.empty(shape, np.uint16)
    memory = (ctypes.c_uint16 * count).from_address(value.data_ptr())
    return np.frombuffer(memory, np.uint16).reshape(shape).copy()


def _spec(arg: Any) -> TensorSpec:
    dtype = _OIP_OF_ORT.get(arg.type)
    if dtype is None:
        raise InvalidModel(f"{arg.name!r} is a {arg.type}, which cannot travel", hint="inputs and outputs are tensors")
    return TensorSpec(arg.name, dtype, tuple(dim if isinstance(dim, int) else -1 for dim in arg.shape))


def _short(error: Exception) -> bool:
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def _turned(error: Exception) -> MsrtError:
    if _short(error):
        return OutOfMemory("no memory is left to load it")
    text = str(error)
    for pattern in _UNKNOWN_OPERATOR:
        found = pattern.search(text)
        if found:
            return InvalidModel(
                f"unknown operator {found[1]}", hint="export with standard ONNX operators that onnxruntime knows"
            )
    if "INVALID_PROTOBUF" in text or "No graph was found" in text:
        return InvalidModel("not an ONNX model, or a truncated one", hint="export it again, or copy it whole")
    if "xternal data" in text:
        return InvalidModel("the model keeps weights in external files", hint="save it as a single file")
    return InvalidModel(f"onnxruntime cannot load it: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", line)[:300]
