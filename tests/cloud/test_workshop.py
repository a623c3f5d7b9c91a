"""The workshop: one task in, one verdict out, and standard output carries nothing else."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from msrt.errors import DiskFull, InvalidModel, InvalidTensor, QualityGate
from msrt.inference.micro import read_blob
from msrt_cloud.prepare import PrepareOptions, Task, Verdict
from msrt_cloud.workshop import work
from tests.cloud.models import blobs, classifier, save


@pytest.fixture
def room(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "model.onnx").write_bytes(classifier())
    x, y = blobs()
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "xy.npz", x=x, y=y)
    return tmp_path


def task(room, file="model.onnx", **options):
    given = {name: str(room / path) if name in ("calibrate", "evaluate") else path for name, path in options.items()}
    return Task(str(room / file), str(room / "out"), PrepareOptions(**given))


def done(room, file="model.onnx", **options):
    ticks = itertools.count()
    return work(task(room, file, **options), lambda: next(ticks) * 1e-5)


def child(room, **options):
    """Run it as the cloud does."""
    found = subprocess.run(
        [sys.executable, "-m", "msrt_cloud.workshop"], input=msgspec.json.encode(task(room, **options)),
        capture_output=True, check=True, timeout=100,
    )  # fmt: skip
    return found.stdout


def test_without_data_fp32_serves_alone_and_the_report_says_why(room):
    """What int8 cannot do is no error unless it was required."""
    prepared = done(room)
    assert set(prepared.files) == {"fp32"}
    assert "--calibrate" in prepared.report["int8"]
    with pytest.raises(QualityGate, match="int8 is required"):
        done(room, require="int8")


def test_every_recipe_that_was_tried_is_in_the_report(room):
    """What was measured of it, and why it was refused."""
    prepared = done(room, calibrate="x.npy", evaluate="xy.npz")
    assert prepared.report["chosen"] in prepared.files
    assert prepared.report["tried"]
    assert all({"recipe", "row_us"} <= set(one) or "refused" in one for one in prepared.report["tried"])
    assert prepared.report["weight_bytes_ratio"] < 0.5
    for file in prepared.files.values():
        assert len(Path(file.path).read_bytes()) == file.size


def test_required_fp32_is_not_quantised(room):
    """Nothing is tried that nobody asked for."""
    prepared = done(room, calibrate="x.npy", require="fp32")
    assert (set(prepared.files), prepared.report["tried"]) == ({"fp32"}, [])


def test_a_quantised_file_is_served_as_it_was_given(room):
    """As int8, byte for byte, and judged all the same; it cannot be made fp32 again."""
    given = Path(done(room, calibrate="x.npy").files["int8"].path).read_bytes()
    (room / "small.onnx").write_bytes(given)
    prepared = done(room, "small.onnx", evaluate="xy.npz")
    assert set(prepared.files) == {"int8", "micro"}
    assert Path(prepared.files["int8"].path).read_bytes() == given
    assert prepared.report["accuracy_int8"] > 0.9
    with pytest.raises(QualityGate, match="quantised already"):
        done(room, "small.onnx", require="fp32")
    np.savez(room / "wrong.npz", x=blobs()[0], y=(blobs()[1] + 1) % 4)
    with pytest.raises(QualityGate):
        done(room, "small.onnx", evaluate="wrong.npz", min_accuracy=0.9)


def test_a_model_below_its_least_accuracy_leaves_nothing(room):
    """It is refused before anything is quantised."""
    np.savez(room / "wrong.npz", x=blobs()[0], y=(blobs()[1] + 1) % 4)
    with pytest.raises(QualityGate):
        done(room, evaluate="wrong.npz", min_accuracy=0.9)
    assert list((room / "out").iterdir()) == []


def test_data_of_another_model_is_refused(room):
    """Before it could spoil the ranges."""
    np.save(room / "x.npy", np.ones((5, 3), np.float32))
    with pytest.raises(InvalidTensor, match="the array is"):
        done(room, calibrate="x.npy")


@pytest.mark.processes
def test_standard_output_is_the_verdicts_alone(room, monkeypatch):
    """A library that prints, in Python or below it, does not break the answer; an error is a verdict too."""
    site = room / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import atexit, os\natexit.register(lambda: (print('bye'), os.write(1, b'from below')))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    verdict = msgspec.json.decode(child(room), type=Verdict)
    assert set(verdict.prepared.files) == {"fp32"}
    verdict = msgspec.json.decode(child(room, require="int8"), type=Verdict)
    assert (verdict.prepared, verdict.code) == (None, QualityGate.code)


def test_a_full_disk_is_not_the_models_fault(room):
    """From the library or from our own write, in this process or the child's: disk_full, and what to do."""
    (room / "out" / "fp32.onnx").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match="no space left for the files of a push"):
        done(room)
    verdict = msgspec.json.decode(child(room), type=Verdict)
    assert (verdict.code, "TMPDIR" in verdict.hint) == ("disk_full", True)


def test_evaluation_data_make_confidence_mean_what_it_says(room):
    """One label of seven is another: the temperature goes into the manifest, the errors into the report."""
    x, y = blobs()
    y = np.where(np.arange(len(y)) % 7 == 3, (y + 1) % 4, y)
    np.savez(room / "doubtful.npz", x=x, y=y)
    prepared = done(room, evaluate="doubtful.npz")
    assert prepared.scores == "logits"
    assert prepared.temperature == prepared.report["temperature"] != 1.0
    assert prepared.report["calibration_error"] < prepared.report["calibration_error_unscaled"]
    manifest = prepared.manifest("net", 1)
    assert (manifest.scores, manifest.temperature) == ("logits", prepared.temperature)


def test_what_the_inputs_are_like_goes_with_the_model(room):
    """Of calibration, else evaluation data: devices hold their readings against it; without data there is nothing."""
    for options in ({"calibrate": "x.npy"}, {"evaluate": "xy.npz"}):
        reference = done(room, **options).manifest("net", 1).reference
        assert reference is not None
        assert reference.samples == len(blobs()[0])
    assert done(room).manifest("net", 1).reference is None


def test_a_blob_for_microcontrollers_goes_with_int8(room):
    """With the flash and RAM that it needs, in the report as well; it is never what other devices choose."""
    prepared = done(room, calibrate="x.npy", device_class="mcu")
    micro = prepared.files["micro"]
    blob = read_blob(Path(micro.path).read_bytes())
    assert (micro.flash, micro.ram) == (blob.board_bytes, blob.arena)
    assert prepared.report["micro"] == f"{micro.flash} bytes of flash, {micro.ram} bytes of RAM"
    assert prepared.report["chosen"] in ("fp32", "int8")


def test_what_no_microcontroller_runs_is_refused_for_them_alone(room):
    """By operator and node; without `--for mcu` the report says so, and the model is served elsewhere."""
    spec = [TensorProto.FLOAT, ["n", 16]]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Sigmoid", ["h"], ["y"], name="act_7"),
    ]  # fmt: skip
    weights = numpy_helper.from_array(np.eye(16, dtype=np.float32), "w")
    (room / "odd.onnx").write_bytes(save(nodes, [("x", *spec)], [("y", *spec)], [weights]))
    prepared = done(room, "odd.onnx", calibrate="x.npy")
    assert "micro" not in prepared.files
    assert "Sigmoid (node act_7" in prepared.report["micro"]
    with pytest.raises(InvalidModel, match=r"Sigmoid \(node act_7"):
        done(room, "odd.onnx", calibrate="x.npy", device_class="mcu")
