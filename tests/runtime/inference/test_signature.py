import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt.errors import InvalidTensor
from msrt.inference.signature import Signature, join_rows, ride_key, split_rows
from msrt.inference.tensors import pack_strings, strings_in
from msrt.protocol.messages import TensorSpec

TWO = Signature(
    (TensorSpec("a", "FP32", (-1, 4)), TensorSpec("b", "INT64", (-1,))),
    (TensorSpec("y", "FP32", (-1, 3)),),
    batchable=True,
    model="net",
)
A = TensorSpec("a", "FP32", (2, 4))
B = TensorSpec("b", "INT64", (2,))
ROW = Signature((TensorSpec("x", "INT8", (1, 3)),), (TensorSpec("y", "INT8", (1, 2)),), batchable=False, rowwise=True)


def test_good_request_passes_and_tells_its_rows():
    """The same request passes again by look-up."""
    for _ in range(2):
        assert TWO.check((A, B), [b"\0" * 32, memoryview(bytes(16))]) == 2


@pytest.mark.parametrize(
    ("specs", "sizes", "fault"),
    [
        ((A,), [32], "input 'b' is missing"),
        ((A, TensorSpec("c", "INT64", (2,))), [32, 16], "unknown input 'c'"),
        ((A, A), [32, 32], "input 'a' comes twice"),
        ((TensorSpec("a", "FP64", (2, 4)), B), [64, 16], "input 'a' must be FP32, not FP64"),
        ((TensorSpec("a", "FP32", (2, 5)), B), [40, 16], "shape [2, 5] does not fit axis 1"),
        ((TensorSpec("a", "FP32", (8,)), B), [32, 16], "must have 2 dimensions, not 1"),
        ((TensorSpec("a", "FP32", (0, 4)), B), [0, 16], "does not fit axis 0"),
        ((TensorSpec("a", "FP32", (-2, 4)), B), [0, 16], "does not fit axis 0"),
        ((A, TensorSpec("b", "INT64", (3,))), [32, 24], "input 'b' has 3 rows where another has 2"),
        ((A, B), [31, 16], "takes 32 bytes, got 31"),
        ((A, B), [32, 17], "takes 16 bytes, got 17"),
        ((A, B), [32], "2 tensors are described, 1 came along"),
    ],
)
def test_bad_request_is_told_exactly_what_is_wrong(specs, sizes, fault):
    """Wrong name, dtype, shape, rows or byte count: the sentence names the tensor and the fault."""
    with pytest.raises(InvalidTensor) as caught:
        TWO.check(specs, [bytes(size) for size in sizes])
    assert fault in str(caught.value)


def test_sizes_are_checked_again_for_a_shape_seen_before():
    """Remembering a shape never means trusting the bytes beside it."""
    TWO.check((A, B), [bytes(32), bytes(16)])
    with pytest.raises(InvalidTensor, match="got 12"):
        TWO.check((A, B), [bytes(32), bytes(12)])


def test_memory_of_shapes_is_bounded():
    """A caller that sends ever new shapes does not make the edge grow."""
    for rows in range(1, 600):
        specs = (TensorSpec("a", "FP32", (rows, 4)), TensorSpec("b", "INT64", (rows,)))
        TWO.check(specs, [bytes(16 * rows), bytes(8 * rows)])
    assert len(TWO._seen) <= 256


def test_fixed_batch_takes_rows_one_by_one():
    """A graph whose axis 0 is 1 takes several rows: they are run singly."""
    assert ROW.check((TensorSpec("x", "INT8", (5, 3)),), [bytes(15)]) == 5
    with pytest.raises(InvalidTensor, match="axis 1"):
        ROW.check((TensorSpec("x", "INT8", (5, 4)),), [bytes(20)])


def test_rows_that_mean_nothing_count_as_one():
    """A stateful model's axes are its own: shapes must fit, and the request is one row."""
    free = Signature((TensorSpec("s", "FP32", (2, -1, 8)),), (TensorSpec("y", "FP32", (-1,)),), batchable=False)
    assert free.check((TensorSpec("s", "FP32", (2, 3, 8)),), [bytes(192)]) == 1


def test_requests_are_brought_into_the_graphs_order():
    """Callers may name inputs in any order, and still ride together."""
    specs, frames = TWO.arrange((B, A), [b"bb", b"aa"])
    assert specs == (A, B)
    assert frames == [b"aa", b"bb"]


def test_unknown_output_is_refused():
    """Asking for an output that is not there names those that are."""
    TWO.check_outputs(("y",))
    with pytest.raises(InvalidTensor, match="no output 'z'; it has y"):
        TWO.check_outputs(("z",))


@pytest.mark.parametrize("frame", [b"", b"\5\0\0\0abc", b"\1\0\0\0a" * 3, b"\xff\xff\xff\xff", b"\0\0"])
def test_strings_that_do_not_fill_their_shape_are_refused(frame):
    """A length that lies is found without making a string of it."""
    text = Signature((TensorSpec("t", "BYTES", (-1,)),), (TensorSpec("y", "BYTES", (-1,)),), batchable=True)
    with pytest.raises(InvalidTensor, match="'t'"):
        text.check((TensorSpec("t", "BYTES", (2,)),), [frame])


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_what_is_joined_is_cut_apart_again(rows):
    """Any riders: joined along axis 0 and split by rows, each gets its own bytes back."""
    generator = np.random.default_rng(sum(rows))
    requests = []
    for count in rows:
        texts = [str(generator.integers(10**6)) * int(generator.integers(3)) for _ in range(count * 2)]
        specs = (TensorSpec("a", "FP32", (count, 4)), TensorSpec("t", "BYTES", (count, 2)))
        requests.append((specs, [generator.random((count, 4), np.float32).tobytes(), pack_strings(texts)]))
    assert len({ride_key(specs) for specs, _ in requests}) == 1
    joined = join_rows(requests)
    assert joined[0][0].shape == (sum(rows), 4)
    parts = split_rows(*joined, rows)
    assert [(specs, [bytes(frame) for frame in frames]) for specs, frames in parts] == requests
    assert [strings_in(specs[1], frames[1]) for specs, frames in parts] == [
        strings_in(specs[1], frames[1]) for specs, frames in requests
    ]


@pytest.mark.parametrize(
    ("spec", "size"),
    [(TensorSpec("y", "FP32", (3, 2)), 24), (TensorSpec("y", "FP32", (2, 2)), 12), (TensorSpec("y", "FP32", ()), 4)],
)
def test_answers_that_cannot_be_cut_are_refused(spec, size):
    """A device that returns other rows than it was sent is caught, not cut wrongly."""
    with pytest.raises(InvalidTensor):
        split_rows((spec,), [bytes(size)], [1, 1])


def test_an_edge_needs_neither_numpy_nor_onnxruntime():
    """Manifests and checks of requests load without either."""
    code = "import sys, msrt.inference.bundle; print([m for m in ('numpy', 'onnxruntime', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
