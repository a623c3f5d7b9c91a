"""From a pushed file to what the journal can hold: the work is done by a child process, this is who asks and waits.

Imports neither onnx nor onnxruntime: the cloud itself stays small, and a file that kills the child kills nothing else.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from msrt.errors import InvalidConfig, InvalidModel, JobFailed, MsrtError, from_wire
from msrt.inference.bundle import FP32, INT8, MCU, Manifest, Stage, StateTensor, Variant
from msrt.inference.reference import Reference
from msrt.process import spawn_child, stop_child
from msrt.protocol.messages import TensorSpec

__all__ = ["PrepareOptions", "Prepared", "PreparedFile", "Task", "Verdict", "prepare", "prepare_inline"]

DEADLINE_S: Final = 600.0
"""For one model: a large one is calibrated for minutes."""
NICE: Final = 10
_ANSWER_LIMIT: Final = 1 << 20


class PrepareOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What `msrt model push` was told."""

    calibrate: str = ""
    """Path of inputs to calibrate with: X.npy for the one input, or an .npz of arrays by input name."""
    evaluate: str = ""
    """Path of an .npz with `x` (or arrays by input name) and integer labels `y`."""
    max_drop: float = 0.01
    """How much accuracy int8 may lose against fp32: .01 is one point."""
    min_accuracy: float = 0.0
    """What every variant must reach on the evaluation data."""
    require: str = ""
    """`int8`: refuse the push rather than serve fp32."""
    state: tuple[str, ...] = ()
    """IN=OUT of tensors that the graph hands from call to call; `none`: it keeps nothing. Empty: look for them."""
    pre: str = ""
    """Path of a graph that makes the model's inputs of a request's; `calibrate` and `evaluate` are what it takes."""
    post: str = ""
    """Path of a graph that makes an answer of the model's outputs: that is what is judged."""
    device_class: str = ""
    """Refuse a model that devices of this class cannot run: `mcu`; every model runs on all others."""

    def __post_init__(self) -> None:
        if self.require not in ("", FP32, INT8):
            raise InvalidConfig(f"a variant is fp32 or int8, not {self.require!r}")
        if self.device_class not in ("", MCU):
            raise InvalidConfig(f"models can be pushed for {MCU}, not for {self.device_class!r}")
        if not 0 <= self.max_drop <= 1 or not 0 <= self.min_accuracy <= 1:
            raise InvalidConfig("--max-drop and --min-accuracy are fractions from 0 to 1", hint="one point is 0.01")
        if self.min_accuracy and not self.evaluate:
            raise InvalidConfig("--min-accuracy has nothing to be measured on", hint="give --eval XY.npz")


class PreparedFile(msgspec.Struct, frozen=True):
    """One variant's file, in the output directory."""

    path: str
    digest: str
    size: int
    weight_bytes: int
    latency_us: int
    method: str
    flash: int = 0
    ram: int = 0


class Prepared(msgspec.Struct, frozen=True):
    """What becomes a manifest: `manifest` adds the name and the version."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool
    rowwise: bool
    sample: dict[str, tuple[int, ...]]
    files: dict[str, PreparedFile]
    require: str
    report: dict[str, object]
    """`chosen` in it is provisional, by the speed of this machine: devices measure both."""
    state: tuple[StateTensor, ...] = ()
    scores: str = ""
    temperature: float = 1.0
    stages: dict[str, Stage] = {}
    """By the manifest's field: pre, post."""
    reference: Reference | None = None

    def manifest(self, model: str, version: int, labels: tuple[str, ...] = ()) -> Manifest:
        return Manifest(
            model=model,
            version=version,
            inputs=self.inputs,
            outputs=self.outputs,
            variants={
                name: Variant(
                    file.digest, file.size, file.weight_bytes, file.latency_us, file.method, file.flash, file.ram
                )
                for name, file in self.files.items()
            },
            require=self.require,
            batchable=self.batchable,
            rowwise=self.rowwise,
            sample=self.sample,
            labels=labels,
            scores=self.scores,
            temperature=self.temperature,
            state=self.state,
            report=self.report,
            pre=self.stages.get("pre"),
            post=self.stages.get("post"),
            reference=self.reference,
        )


class Task(msgspec.Struct, frozen=True):
    """What the child reads on its standard input."""

    path: str
    out: str
    options: PrepareOptions


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What it writes: a result, or an error as it crosses a wire."""

    prepared: Prepared | None = None
    code: str = ""
    text: str = ""
    hint: str = ""


async def prepare(path: Path, out: Path, options: PrepareOptions, *, deadline_s: float = DEADLINE_S) -> Prepared:
    """Validate, quantise, judge and measure `path`; the files lie in `out` (which must exist) afterwards.

    Raises InvalidModel, InvalidTensor (calibration or evaluation data that does not fit), QualityGate, InvalidConfig,
    and JobFailed where the child died or ran past `deadline_s`.
    """
    task = Task(str(path), str(out), options)
    child = await spawn_child(
        [sys.executable, "-m", "msrt_cloud.workshop"],
        nice=NICE,
        limits={"RLIMIT_CORE": 0},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(deadline_s):
            answer, said = await child.communicate(msgspec.json.encode(task))
    except TimeoutError:
        raise JobFailed(f"{path.name} was not prepared within {deadline_s:.0f} s") from None
    finally:
        if child.returncode is None:
            await stop_child(child, grace_s=0.0)
    return _read(answer, said, child.returncode, path.name)


def prepare_inline(path: Path, out: Path, options: PrepareOptions, now: Callable[[], float]) -> Prepared:
    """The same in this process, blocking: for simulation, and for who has a process of its own already."""
    from msrt_cloud.workshop import work  # noqa: PLC0415 - brings onnx and onnxruntime

    return work(Task(str(path), str(out), options), now)


def _read(answer: bytes, said: bytes, status: int | None, name: str) -> Prepared:
    try:
        verdict = msgspec.json.decode(answer[-_ANSWER_LIMIT:], type=Verdict)
    except msgspec.DecodeError:
        last = said.decode(errors="replace").strip().rpartition("\n")[2][:300]
        raise _died(status, name, last) from None
    if verdict.prepared is None:
        error: MsrtError = from_wire(verdict.code, verdict.text, verdict.hint)
        raise error
    return verdict.prepared


def _died(status: int | None, name: str, last: str) -> MsrtError:
    if status is not None and status < 0:
        return InvalidModel(f"{name} killed the process that looked at it (signal {-status})", hint=last)
    return JobFailed(f"the process that prepares {name} ended with status {status}", hint=last)
