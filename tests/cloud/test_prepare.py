import asyncio
import contextlib
import os
import subprocess
import sys

import numpy as np
import pytest

from msrt.errors import InvalidModel, InvalidTensor, JobFailed, QualityGate
from msrt.process import spawn_child
from msrt_cloud.prepare import PrepareOptions, prepare

from .models import blobs, classifier


@pytest.fixture
def room(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "model.onnx").write_bytes(classifier())
    np.save(tmp_path / "x.npy", blobs()[0])
    return tmp_path


def child(room, deadline_s=60.0, **options):
    work = prepare(room / "model.onnx", room / "out", PrepareOptions(**options), deadline_s=deadline_s)
    return asyncio.run(work)


def test_child_process_prepares_a_model(room):
    """From the asking process' view: files, tensors and a report come back typed."""
    prepared = child(room, calibrate=str(room / "x.npy"))
    assert set(prepared.files) == {"fp32", "int8", "micro"}
    assert prepared.inputs[0].name == "x"
    assert prepared.sample == {"x": (1, 16)}


def test_childs_error_is_raised_here_with_its_type(room):
    """A bad model and bad data keep their type, sentence and hint over the pipe."""
    with pytest.raises(QualityGate, match="--calibrate"):
        child(room, require="int8")
    with pytest.raises(InvalidTensor, match=r"cannot read gone\.npy"):
        child(room, calibrate=str(room / "gone.npy"))
    (room / "model.onnx").write_bytes(b"nonsense" * 40)
    with pytest.raises(InvalidModel, match=r"not an ONNX model.*; export it again"):
        child(room)


def test_deadline_ends_the_child(room):
    """A model that takes too long is given up, with what it started."""
    with pytest.raises(JobFailed, match="not prepared within 0 s"):
        child(room, deadline_s=0.01)


@pytest.mark.parametrize(("signal", "error"), [("SIGSEGV", InvalidModel), ("", JobFailed)])
def test_death_of_the_child_is_an_error_not_a_death_of_ours(room, monkeypatch, signal, error):
    """A file that crashes the library crashes only the child; the sentence says so."""
    site = room / "site"
    site.mkdir()
    die = f"os.kill(os.getpid(), signal.{signal})" if signal else "sys.exit(3)"
    (site / "onnx.py").write_text(f"import os, signal, sys\n{die}\n")
    monkeypatch.setenv("PYTHONPATH", str(site) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    with pytest.raises(error):
        child(room)


def test_cancelled_push_leaves_no_child(room, monkeypatch):
    """Who asked went away: the child is gone when `prepare` returns."""
    started = []

    async def main():
        spawned = asyncio.Event()

        async def recording(*args, **options):
            started.append(await spawn_child(*args, **options))
            spawned.set()
            return started[0]

        monkeypatch.setattr("msrt_cloud.prepare.spawn_child", recording)
        task = asyncio.create_task(prepare(room / "model.onnx", room / "out", PrepareOptions()))
        await spawned.wait()
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert started[0].returncode is not None

    asyncio.run(main())


def test_asking_costs_no_onnxruntime():
    """The cloud's own process stays small: onnx and onnxruntime live in the child."""
    code = "import sys, msrt_cloud.prepare; print([m for m in ('numpy', 'onnxruntime', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
