"""Tensors in JSON: what is accepted, what is refused and how."""

from __future__ import annotations

import contextlib
import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.errors import CallerError
from msrt.inference.tensors import pack_strings
from msrt.protocol.messages import TensorSpec
from msrt.serving.backend import InferAnswer
from msrt.serving.oip import decode_infer, encode_answer
from tests.runtime.serving.caller import Master, call, floats, infer

RANGES = {
    "INT8": ("b", -128, 127), "UINT8": ("B", 0, 255), "INT16": ("h", -(2**15), 2**15 - 1),
    "UINT16": ("H", 0, 2**16 - 1),
    "INT32": ("i", -(2**31), 2**31 - 1), "UINT32": ("I", 0, 2**32 - 1), "INT64": ("q", -(2**63), 2**63 - 1),
    "UINT64": ("Q", 0, 2**64 - 1),
}  # fmt: skip


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        ([1, 2, 3, 4], [2, 2]),
        ([[1, 2], [3, 4]], [2, 2]),
        ([[[1], [2]], [[3], [4]]], [2, 2, 1]),
        ([1.0, 2e0, 3, 4], [4]),
    ],
)
def test_data_may_be_flat_or_nested(data, shape):
    """Both forms give the same bytes, in row-major order; the answer is flat."""
    master = Master()
    answer = infer(data, shape=shape, master=master)
    assert answer.status == 200
    assert floats(master.asked[0].frames[0]) == [1, 2, 3, 4]
    assert master.asked[0].inputs == (TensorSpec("x", "FP32", tuple(shape)),)
    assert answer.json["outputs"] == [{"name": "y", "datatype": "FP32", "shape": shape, "data": [1, 2, 3, 4]}]


def test_the_answer_names_model_version_variant_device_and_id():
    """All that a client needs to know who answered."""
    answer = infer([1], extra={"id": "q-7"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["id"] == "q-7"
    assert (answer.json["model_name"], answer.json["model_version"]) == ("digits", "3")
    assert answer.json["parameters"] == {"variant": "int8", "device": "cam-1"}
    assert "id" not in infer([1]).json


@pytest.mark.parametrize(("dtype", "char", "low", "high"), [(k, *v) for k, v in RANGES.items()])
def test_integers_keep_their_whole_range_and_no_more(dtype, char, low, high):
    """The extremes pass unchanged; one beyond is refused, and so are fractions and booleans."""
    master = Master()
    answer = infer([low, high], dtype=dtype, master=master)
    assert answer.json["outputs"][0]["data"] == [low, high]
    assert master.asked[0].frames[0] == struct.pack(f"<2{char}", low, high)
    for bad in (low - 1, high + 1, 1.5, True, "1", None):
        assert infer([bad], dtype=dtype).status == 400


def test_booleans_strings_and_half_floats():
    """The other dtypes go there and back."""
    assert infer([True, False], dtype="BOOL").json["outputs"][0]["data"] == [True, False]
    assert infer(["grüß", ""], dtype="BYTES").json["outputs"][0]["data"] == ["grüß", ""]
    assert infer([0.5, -2], dtype="FP16").json["outputs"][0]["data"] == [0.5, -2.0]
    assert infer([1e300], dtype="FP64").json["outputs"][0]["data"] == [1e300]


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        ({"shape": [2, 2], "data": [1, 2, 3]}, "4 elements, data has 3"),
        ({"shape": [2, 2], "data": [[1, 2], [3]]}, "nested"),
        ({"shape": [2, 2], "data": [[1, 2, 3, 4]]}, "does not match"),
        ({"shape": [4], "data": [[1, 2], [3, 4]]}, "deeper"),
        ({"shape": [1, 1, 4], "data": [[1, 2, 3, 4]]}, "nested"),
        ({"shape": [-1], "data": [1]}, "cannot be"),
        ({"shape": [1] * 9, "data": [1]}, "cannot be"),
        ({"shape": [2**40, 2**40], "data": [1]}, "elements"),
        ({"shape": [1], "data": 1}, "no array"),
        ({"shape": [1], "data": "AAAA"}, "no array"),
        ({"shape": [1]}, "missing"),
        ({"shape": [1], "data": ["1"]}, "FP32"),
        ({"shape": [1], "data": [None]}, "FP32"),
        ({"shape": [1], "data": [True]}, "FP32"),
        ({"shape": [1], "data": [1e39]}, "range"),
        ({"shape": [1], "data": [[[[[[[[[[1]]]]]]]]]]}, "FP32"),
        ({"shape": [1], "data": [1], "datatype": "FLOAT"}, "not supported"),
        ({"shape": [1], "data": [1], "datatype": "FP8"}, "not supported"),
        ({"shape": [1.5], "data": [1]}, "shape"),
        ({"shape": "1", "data": [1]}, "shape"),
    ],
)
def test_a_bad_tensor_is_named(tensor, says):
    """400, and the sentence says what is wrong."""
    answer = call("/v2/models/digits/infer", {"inputs": [{"name": "x", "datatype": "FP32", **tensor}]})
    assert answer.status == 400
    assert says in answer.json["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"inputs": {}}',
        b'{"inputs": [1]}',
        b'{"inputs": [{"shape": [1], "datatype": "FP32", "data": [1]}]}',
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [NaN]}]}',
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [Infinity]}]}',
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1e999]}]}',
        b'{"inputs": [], "id": 7}',
        b'{"inputs": [], "parameters": {"timeout": "1"}}',
        b'{"inputs": [], "parameters": {"timeout": -1}}',
        b'{"inputs": [], "parameters": {"sequence_id": 1.5}}',
        b'{"inputs": [], "parameters": {"sequence_id": "a", "sequence_start": 1}}',
        b'{"inputs": [], "parameters": {"priority": -1}}',
        b'{"inputs": [], "parameters": {"binary_data_output": 1}}',
        b'{"inputs": [], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}',
        b'{"inputs": [], "outputs": [{"name": "y", "parameters": {"classification": "2"}}]}',
        b'{"inputs": [], "outputs": [{"name": "y"}, {"name": "y"}]}',
        b'{"inputs": [{"name": "x", "shape": [0, 2000000000000000000000], "datatype": "FP32", "data": []}]}',
        b'{"inputs": [{"name": "\xff", "shape": [1], "datatype": "FP32", "data": [1]}]}',
        (
            b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}, '
            b'{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}'
        ),
        b"[" * 100_000,
        b'{"parameters":' * 50_000,
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": '
        + b"[" * 100_000
        + b"]" * 100_000
        + b"}]}",
    ],
)
def test_a_body_that_is_no_request_is_refused(body):
    """Whatever the bytes: 400 and {"error"}."""
    answer = call("/v2/models/digits/infer", body)
    assert answer.status == 400
    assert set(answer.json) == {"error"}


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["inputs", "name", "shape", "datatype", "data", "id", "parameters"]), inner
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
@settings(max_examples=300)
def test_no_bytes_raise_anything_but_our_errors(body):
    """decode_infer answers any bytes with a request or a CallerError."""
    with contextlib.suppress(CallerError):
        decode_infer(body, "m")


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.data())
def test_nested_and_flat_agree_for_any_shape(shape, data):
    """A tensor of any shape reads the same both ways and comes back flat."""
    count = 1
    for dim in shape:
        count *= dim
    values = data.draw(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=count, max_size=count)
    )
    nested = values
    for dim in reversed(shape[1:]):
        nested = [nested[at : at + dim] for at in range(0, len(nested), dim)] if dim else nested
    frames = []
    for form in [values, nested] if 0 not in shape else [values]:
        body = {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": form}]}
        _, request, _ = decode_infer(json.dumps(body, indent=data.draw(st.sampled_from([None, 8]))).encode(), "m")
        frames.append(request.frames[0])
    assert all(floats(frame) == values for frame in frames)
    answer = InferAnswer(1, "fp32", "d", request.inputs, request.frames)
    assert json.loads(encode_answer("m", "", answer))["outputs"][0]["data"] == values


def test_elements_that_json_cannot_say_read_null():
    """NaN and infinity in an output are null; the body stays JSON."""
    frame = struct.pack("<3f", float("nan"), float("inf"), 1)
    answer = InferAnswer(1, "fp32", "d", (TensorSpec("y", "FP32", (3,)),), (frame,))
    assert json.loads(encode_answer("m", "", answer))["outputs"][0]["data"] == [None, None, 1]


def test_slices_of_a_batch_are_read_without_a_copy_first():
    """Frames may be memoryviews at any offset, as the dispatcher cuts them."""
    whole = memoryview(b"\0" + struct.pack("<3f", 1, 2, 3) + pack_strings(["a"]))
    outputs = (TensorSpec("y", "FP32", (3,)), TensorSpec("s", "BYTES", (1,)))
    answer = InferAnswer(1, "fp32", "d", outputs, (whole[1:13], whole[13:]))
    assert [out["data"] for out in json.loads(encode_answer("m", "", answer))["outputs"]] == [[1, 2, 3], ["a"]]
