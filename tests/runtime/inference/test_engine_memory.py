"""An engine in a process that may have no more memory: what is short for a moment is told from what is bad."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource, sys
from pathlib import Path
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from msrt.errors import OutOfMemory
from msrt.inference.engine import Engine
from tests.runtime.inference.models import model_of

def limit(extra):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + extra if extra else -1, -1))

ONE = {"x": np.zeros(1, np.float32)}
N = 10_000_000
weights = numpy_helper.from_array(np.zeros(N, np.float32), "w")
heavy = model_of([helper.make_node("Add", ["x", "w"], ["y"])], [("x", TensorProto.FLOAT, [1])],
                 [("y", TensorProto.FLOAT, [N])], [weights]).SerializeToString()
size = numpy_helper.from_array(np.array([8 * N], np.int64), "n")
wide = model_of([helper.make_node("Expand", ["x", "n"], ["y"])], [("x", TensorProto.FLOAT, [1])],
                [("y", TensorProto.FLOAT, [8 * N])], [size]).SerializeToString()
engine = Engine()
model = engine.load(wide)
WORK = {"load": lambda: engine.load(heavy), "run": lambda: model.run(ONE)}
work = WORK[sys.argv[1]]
limit(int(sys.argv[2]) << 20)
try:
    work()
except OutOfMemory as error:
    print(error.code)
limit(0)
work()
print("fine")
"""


@pytest.mark.parametrize(("what", "mib"), [("load", 10), ("load", 60), ("run", 20)])
def test_what_runs_out_of_memory_says_so_and_works_when_there_is_some(what, mib):
    """Whether the file, the graph or a tensor found no place: out_of_memory, never an invalid model."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, what, str(mib)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["out_of_memory", "fine"], done.stderr
