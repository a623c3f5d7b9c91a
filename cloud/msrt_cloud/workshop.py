"""The child process of `prepare`: one task on standard input, one verdict on standard output.

Validate the file, make int8 of it where that can be done, judge each variant, measure each, choose. What int8 cannot do
is no error unless it was required: the report says why fp32 serves alone.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import onnx
from numpy.typing import NDArray

from msrt.errors import InvalidModel, MsrtError, QualityGate
from msrt.inference.bundle import FP32, INT8, MCU, MICRO
from msrt.inference.drift import reference_of
from msrt.inference.engine import Engine
from msrt.inference.measuring import measure, sample_inputs
from msrt.inference.model import Model
from msrt.inference.reference import Reference
from msrt.inference.stateful import StatefulModel
from msrt_cloud.calibration import Calibration, calibrate
from msrt_cloud.graph import GraphInfo, initialiser_bytes, inspect, read_graph, rows_are_independent, with_state
from msrt_cloud.micro import blob_file, refuse_float
from msrt_cloud.prepare import Prepared, PreparedFile, Task, Verdict
from msrt_cloud.quality import Judgement, accuracy, is_classifier, judge, require_accuracy
from msrt_cloud.quantise import Recipe, float_copy, quantise, recipes_for, weight_bytes_ratio
from msrt_cloud.room import of_disk
from msrt_cloud.samples import Samples, load_evaluation, load_samples, outputs_of
from msrt_cloud.stages import Stages, load_stages
from msrt_cloud.states import NONE

__all__ = ["main", "work"]

_RIDERS: Final = 8
"""Rows that typically ride together under load: what a variant costs is judged with them, too."""
_CLOSE: Final = 0.95
"""A later recipe must beat an earlier one by this much."""


@dataclass
class _Candidate:
    """One int8 file that passed the gate."""

    path: Path
    recipe: Recipe
    judgement: Judgement
    independent: bool
    row_us: float


@dataclass
class _Job:
    """One model in the workshop."""

    task: Task
    now: Callable[[], float]
    path: Path
    info: GraphInfo
    stages: Stages
    model: Model
    """Between its stages."""
    calibration: Samples | None
    """What `model` takes; the quantiser is given what is left of it behind the first stage."""
    evaluation: Samples | None
    inner: Samples | None
    tried: list[dict[str, object]] = field(default_factory=list)
    full_bytes: int = 0
    calibrated: Calibration | None = None

    def outputs(self, model: Model, samples: Samples) -> NDArray[Any]:
        return outputs_of(model, samples, batchable=self.info.batchable)


@of_disk()
def work(task: Task, now: Callable[[], float]) -> Prepared:
    """Do the task. Blocking, seconds to minutes. Raises InvalidModel, InvalidTensor, QualityGate, DiskFull."""
    path, options = Path(task.path), task.options
    graph = read_graph(path)
    loaded, stages = Engine().load(path.read_bytes()), load_stages(options.pre, options.post)
    bare = with_state(loaded, options.state)
    model = stages.around(bare)
    calibration = load_samples(Path(options.calibrate), model.inputs) if options.calibrate else None
    inner = stages.inner(calibration, bare) if calibration else None
    if inner and options.state != (NONE,):
        model = stages.around(with_state(loaded, options.state, inner.shapes(bare)))
    info = inspect(graph, model, calibration.shapes(model) if calibration else None)
    evaluation = load_evaluation(Path(options.evaluate), model.inputs) if options.evaluate else None
    job = _Job(task, now, path, info, stages, model, calibration, evaluation, inner)
    if info.quantised:
        return _as_given(job)
    report: dict[str, object] = {}
    if evaluation:
        outputs, labels = job.outputs(model, evaluation), _labels(evaluation)
        report["accuracy_fp32"] = value = accuracy(outputs, labels)
        require_accuracy("the model", value, options.min_accuracy)
        report |= _calibrated(job, outputs, labels)
    with tempfile.TemporaryDirectory(dir=task.out) as room:
        best, why = _int8(job, Path(room))
        return _finish(job, report, best, why)


def _as_given(job: _Job) -> Prepared:
    """A file that is quantised already is served unchanged, as int8."""
    options = job.task.options
    if options.require == FP32:
        raise QualityGate("the file is quantised already", hint="push the float model, or drop --require fp32")
    report: dict[str, object] = {"int8": "as given"}
    if job.evaluation:
        outputs, labels = job.outputs(job.model, job.evaluation), _labels(job.evaluation)
        report["accuracy_int8"] = value = accuracy(outputs, labels)
        require_accuracy("the model", value, options.min_accuracy)
        report |= _calibrated(job, outputs, labels)
    files = {INT8: _file(job, job.path, INT8, "as given")}
    return _prepared(job, files, report, batchable=job.info.batchable)


def _calibrated(job: _Job, outputs: NDArray[Any], labels: NDArray[Any]) -> dict[str, object]:
    """Fit the temperature if the model names classes; what the report says of it."""
    if not is_classifier(job.info.inputs, job.info.outputs):
        return {}
    found = calibrate(outputs, labels)
    if isinstance(found, str):
        return {"calibration": f"not fitted: {found}"}
    job.calibrated = found
    return {
        "temperature": found.temperature, "scores": found.scores,
        "calibration_error": found.after, "calibration_error_unscaled": found.before,
    }  # fmt: skip


def _int8(job: _Job, room: Path) -> tuple[_Candidate | None, str]:
    """The best int8 file, or why there is none."""
    options = job.task.options
    if options.require == FP32:
        return None, "not asked for"
    if job.info.state:
        return None, "it keeps state, and the error would grow from step to step"
    recipes = recipes_for(job.info.operators, calibrated=job.calibration is not None)
    if not recipes:
        return None, "nothing here gets faster or smaller without calibration data; give --calibrate"
    judged_on = job.evaluation or job.calibration
    if judged_on is None:
        return None, "nothing to judge it by; give --calibrate or --eval"
    try:
        ready, job.full_bytes = float_copy(job.path, room)
    except InvalidModel as error:
        return None, str(error)
    reference = job.outputs(job.model, judged_on)
    best: _Candidate | None = None
    why = ""
    for number, recipe in enumerate(recipes):
        if best and best.recipe.static and recipe.static:
            continue  # the second static recipe is for graphs that the first one hurts
        found = _try(job, ready, room / f"{number}.onnx", recipe, judged_on, reference)
        if isinstance(found, str):
            why = why or found
        elif best is None or found.row_us < _CLOSE * best.row_us:
            best = found
    return best, why


def _try(
    job: _Job, ready: Path, target: Path, recipe: Recipe, judged_on: Samples, reference: NDArray[Any]
) -> _Candidate | str:
    """Follow one recipe and judge the result; text says why it is not good enough."""
    note: dict[str, object] = {"recipe": recipe.name}
    job.tried.append(note)
    try:
        model = job.stages.around(Engine().load(quantise(ready, target, recipe, job.inner).read_bytes()))
        outputs = job.outputs(model, judged_on)
    except MsrtError as error:
        note["refused"] = str(error)
        return str(error)
    options = job.task.options
    judgement = judge(
        reference,
        outputs,
        labels=judged_on.labels,
        classifier=is_classifier(job.info.inputs, job.info.outputs),
        max_drop=options.max_drop,
        min_accuracy=options.min_accuracy,
    )
    note.update(judgement.numbers)
    if not judgement.passed:
        note["refused"] = judgement.reason
        return judgement.reason
    independent = job.info.batchable and rows_are_independent(model, job.info.sample)
    note["row_us"] = row_us = _row_us(job, model, independent=independent)
    return _Candidate(target, recipe, judgement, independent, row_us)


def _row_us(job: _Job, model: Model, *, independent: bool) -> float:
    """Microseconds a row when several ride together: dynamic ranges span a batch, so such a model runs them singly."""
    rows = _RIDERS if independent else 1
    inputs = sample_inputs(job.info.inputs, job.info.sample, rows=rows, batchable=independent)
    return measure(model, inputs, job.now) / rows


def _finish(job: _Job, report: dict[str, object], best: _Candidate | None, why: str) -> Prepared:
    options = job.task.options
    files = {FP32: _file(job, job.path, FP32, "as given")}
    batchable = job.info.batchable
    if best:
        files[INT8] = _file(job, best.path, INT8, best.recipe.name)
        slower = files[INT8].latency_us >= files[FP32].latency_us
        if slower and not best.recipe.static and options.require != INT8:
            del files[INT8]
            best, why = None, "dynamic int8 is slower here"
    if best:
        batchable = batchable and best.independent
        report |= {**best.judgement.numbers, "int8": best.recipe.name, "gate": best.judgement.reason}
        report["weight_bytes_ratio"] = weight_bytes_ratio(Path(files[INT8].path), job.full_bytes)
    else:
        if options.require == INT8:
            raise QualityGate(f"int8 is required and cannot be served: {why}")
        report["int8"] = f"not served: {why}"
    return _prepared(job, files, report, batchable=batchable)


def _prepared(job: _Job, files: dict[str, PreparedFile], report: dict[str, object], *, batchable: bool) -> Prepared:
    options, info = job.task.options, job.info
    fastest = min(files, key=lambda name: (files[name].latency_us, files[name].size))
    chosen = options.require or fastest
    if info.state:
        report["state"] = ", ".join(f"{pair.input} -> {pair.output}" for pair in info.state)
    report |= {**job.stages.report(), "parameters": info.parameters, "chosen": chosen, "tried": job.tried}
    report["latency_us"] = {name: file.latency_us for name, file in files.items()}
    files, report["micro"] = _with_micro(job, files)
    return Prepared(
        inputs=info.inputs,
        outputs=info.outputs,
        batchable=batchable,
        rowwise=info.rowwise or (info.batchable and not batchable),
        sample=info.sample,
        files=files,
        require=options.require,
        report=report,
        state=info.state,
        scores=job.calibrated.scores if job.calibrated else "",
        temperature=job.calibrated.temperature if job.calibrated else 1.0,
        stages=job.stages.manifest(),
        reference=_reference(job),
    )


def _micro(job: _Job, files: dict[str, PreparedFile]) -> PreparedFile:
    if job.info.state:
        raise InvalidModel("no microcontroller runs it: it keeps state")
    if INT8 not in files:
        raise refuse_float(read_graph(job.path))
    return blob_file(Path(files[INT8].path), Path(job.task.out))


def _with_micro(job: _Job, files: dict[str, PreparedFile]) -> tuple[dict[str, PreparedFile], str]:
    """With the blob for microcontrollers, where there can be one; what the report says of it.

    Raises InvalidModel where it must run there and cannot.
    """
    try:
        blob = _micro(job, files)
    except InvalidModel as error:
        if job.task.options.device_class == MCU:
            raise
        return files, error.text
    return {**files, MICRO: blob}, f"{blob.flash} bytes of flash, {blob.ram} bytes of RAM"


def _reference(job: _Job) -> Reference | None:
    """What its first input is like, where data came with the push: sources read for that one."""
    samples = job.calibration or job.evaluation
    if samples is None:
        return None
    name = job.model.inputs[0].name
    return reference_of(feed[name] for feed in samples.feeds(job.model))


def _file(job: _Job, source: Path, variant: str, method: str) -> PreparedFile:
    """Put a variant into the output directory, and measure one row of it."""
    data = source.read_bytes()
    target = Path(job.task.out) / f"{variant}.onnx"
    if source != target:
        target.write_bytes(data)
    model: Model = Engine().load(data)
    if job.info.state:
        model = StatefulModel(model, job.info.state)
    model = job.stages.around(model)
    return PreparedFile(
        path=str(target),
        digest=hashlib.sha256(data).hexdigest(),
        size=len(data),
        weight_bytes=initialiser_bytes(onnx.load_model_from_string(data)),
        latency_us=measure(model, sample_inputs(job.info.inputs, job.info.sample), job.now),
        method=method,
    )


def _labels(samples: Samples) -> NDArray[Any]:
    assert samples.labels is not None
    return samples.labels


def main() -> None:
    """Standard output is the verdict's alone: libraries that print there are sent to standard error."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    clock = time.perf_counter  # noqa: TID251 - this process measures, and no simulation runs it
    try:
        verdict = Verdict(prepared=work(task, clock))
    except MsrtError as error:
        verdict = Verdict(code=error.code, text=error.text, hint=error.hint)
    with answer:
        answer.write(msgspec.json.encode(verdict))


if __name__ == "__main__":
    main()
