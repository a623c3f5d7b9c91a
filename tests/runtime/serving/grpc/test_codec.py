"""Bytes to requests and answers to bytes."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.errors import CallerError, InvalidTensor, MsrtError, NotFound
from msrt.inference.tensors import pack_strings
from msrt.protocol.messages import TensorSpec
from msrt.serving.backend import InferAnswer
from msrt.serving.grpc import messages as m
from msrt.serving.grpc.codec import decode_request, encode_answer, model_of
from tests.runtime.serving.grpc.rig import RAW, question


def decode(request, **more):
    return decode_request(request.SerializeToString(), **{"timeout_s": 10.0} | more)


def tensor(dtype, shape, **more):
    return [{"name": "x", "datatype": dtype, "shape": shape, **more}]


def test_raw_tensors_stay_bytes():
    """Name, type and shape beside them; the id and what else was said are kept."""
    asked = decode(
        question("7", model_name="ns/net", model_version="4", outputs=[{"name": "y"}]), timeout_s=2.0, trace="00-ab"
    )
    request = asked.request
    assert (asked.ident, request.model, request.version, request.outputs) == ("7", "ns/net", 4, ("y",))
    assert (request.inputs, request.frames) == ((TensorSpec("x", "FP32", (1, 2)),), (RAW,))
    assert (request.timeout_s, request.trace, asked.classes) == (2.0, "00-ab", {})


@pytest.mark.parametrize(
    ("dtype", "frame"),
    [
        ("FP16", struct.pack("<2e", 1, 2)),
        ("BYTES", pack_strings(["a", "\xfcber"])),
        ("BOOL", b"\1\0"),
        ("UINT64", struct.pack("<2Q", 1, 1 << 63)),
    ],
)
def test_raw_tensors_of_other_types(dtype, frame):
    """Halves and strings as they are in the protocol's binary form."""
    asked = decode(question(inputs=tensor(dtype, [2]), raw_input_contents=[frame]))
    assert asked.request.frames == (frame,)


TYPED = {
    "BOOL": ("bool_contents", [True, False], "?"), "INT8": ("int_contents", [-128, 127], "b"),
    "INT16": ("int_contents", [-1, 2], "h"), "INT32": ("int_contents", [-1, 2], "i"),
    "INT64": ("int64_contents", [-(1 << 63), 2], "q"), "UINT8": ("uint_contents", [0, 255], "B"),
    "UINT16": ("uint_contents", [0, 65535], "H"), "UINT32": ("uint_contents", [0, (1 << 32) - 1], "I"),
    "UINT64": ("uint64_contents", [0, (1 << 64) - 1], "Q"), "FP32": ("fp32_contents", [0.5, -2], "f"),
    "FP64": ("fp64_contents", [0.1, float("inf")], "d"),
}  # fmt: skip


@pytest.mark.parametrize("dtype", TYPED)
def test_typed_contents_become_raw(dtype):
    """Each datatype has its own list."""
    field, values, kind = TYPED[dtype]
    asked = decode(question(inputs=tensor(dtype, [2], contents={field: values}), raw_input_contents=[]))
    assert asked.request.frames == (struct.pack(f"<2{kind}", *values),)


def test_typed_strings():
    """Each with its length."""
    asked = decode(
        question(inputs=tensor("BYTES", [2], contents={"bytes_contents": [b"a", b""]}), raw_input_contents=[])
    )
    assert asked.request.frames == (pack_strings([b"a", b""]),)


X = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
BAD = {
    "too few bytes": (question(raw_input_contents=[RAW[:-1]]), "takes 8 bytes, got 7"),
    "too many bytes": (question(raw_input_contents=[RAW + b"\0"]), "got 9"),
    "a frame too many": (question(raw_input_contents=[RAW, RAW]), "1 inputs and 2 raw_input_contents"),
    "negative shape": (question(inputs=tensor("FP32", [-1, 2])), "cannot be"),
    "too many dimensions": (question(inputs=tensor("FP32", [1] * 9)), "cannot be"),
    "unknown dtype": (question(inputs=tensor("COMPLEX", [2])), "'COMPLEX' is not supported"),
    "strings that end early": (question(inputs=tensor("BYTES", [2])), "string"),
    "twice the same": (question(inputs=[X, X], raw_input_contents=[RAW, RAW]), "twice"),
    "contents beside raw": (question(inputs=[X | {"contents": {"fp32_contents": [1, 2]}}]), "beside"),
    "no contents": (question(raw_input_contents=[]), "has 2 elements, fp32_contents has 0"),
    "contents of another type": (
        question(inputs=[X | {"contents": {"int_contents": [1, 2]}}], raw_input_contents=[]),
        "fp32_contents has 0",
    ),
    "typed halves": (question(inputs=tensor("FP16", [2]), raw_input_contents=[]), "raw_input_contents"),
    "out of range": (
        question(inputs=tensor("INT8", [1], contents={"int_contents": [128]}), raw_input_contents=[]), "range of INT8",
    ),
    "huge shape": (question(inputs=tensor("FP32", [1 << 62, 1 << 62])), "takes"),
    "huge shape of strings": (question(inputs=tensor("BYTES", [1 << 62])), "cannot hold"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_tensor_that_does_not_fit_is_refused(kind):
    """The sentence names the fault."""
    request, fault = BAD[kind]
    with pytest.raises(InvalidTensor, match=fault):
        decode(request)


def region(**more):
    return {"parameters": {"shared_memory_region": {"string_param": "r"}}, **more}


@pytest.mark.parametrize(
    "request_",
    [
        question(inputs=[X | region()], raw_input_contents=[]),
        question(outputs=[region(name="y")]),
        question(outputs=[{"name": "y", "parameters": {"classification": {"string_param": "3"}}}]),
        question(parameters={"timeout": {"string_param": "3"}}),
        question(inputs=[X | {"name": f"x{n}"} for n in range(65)], raw_input_contents=[RAW] * 65),
    ],
)
def test_what_is_not_supported_says_so(request_):
    """Shared memory, and parameters of the wrong type."""
    with pytest.raises(CallerError):
        decode(request_)


def test_parameters_reach_the_request():
    """Priority, timeout in microseconds, sequences, classes; others are let be."""
    asked = decode(
        question(
            parameters={
                "priority": {"uint64_param": 1}, "timeout": {"int64_param": 250_000},
                "sequence_id": {"int64_param": 42}, "sequence_start": {"bool_param": True}, "mine": {"double_param": 1},
            },
            outputs=[{"name": "y", "parameters": {"classification": {"int64_param": 3}}}],
        )
    )  # fmt: skip
    request = asked.request
    assert (request.priority, request.timeout_s) == (1, 0.25)
    assert (request.sequence, request.sequence_start, request.sequence_end) == ("42", True, False)
    assert (request.outputs, asked.classes) == (("y",), {"y": 3})


def test_a_model_has_one_name():
    """The default namespace goes without saying; a malformed name or version is not found."""
    assert model_of("default/digits", "") == ("digits", 0)
    assert model_of("ns/digits", "3") == ("ns/digits", 3)
    for name, version in (("", ""), ("digits", "x"), ("digits", "0"), ("../x", ""), ("a/b/c", "")):
        with pytest.raises(NotFound):
            model_of(name, version)


@given(st.binary(max_size=200))
def test_garbage_is_refused_in_a_sentence(data):
    """Whatever the bytes are: a request, or an error of ours."""
    with contextlib.suppress(MsrtError):
        decode_request(data, timeout_s=1.0)


def test_garbage_is_a_bad_request():
    """What is no message is named as such."""
    with pytest.raises(CallerError, match="no ModelInferRequest"):
        decode_request(b"\xff\xff", timeout_s=1.0)


# --- answers ---------------------------------------------------------------------------------------------------------

MARKS = {"cached": True, "stages": 2, "confidence": 0.5, "tier": "edge"}


@given(
    ident=st.text(max_size=300),
    frames=st.lists(st.binary(max_size=20_000), max_size=3),
    view=st.booleans(),
    marks=st.sampled_from([{}, MARKS]),
)
@settings(max_examples=60)
def test_an_answer_is_what_protobuf_would_write(ident, frames, view, marks):
    """The parts that are written by hand add up to the message."""
    outputs = tuple(TensorSpec(f"y{n}", "UINT8", (len(frame),)) for n, frame in enumerate(frames))
    given_frames = [memoryview(frame) for frame in frames] if view else frames
    answer = InferAnswer(3, "int8", "cam-1", outputs, given_frames, marks)
    for _ in range(2):
        said = m.ModelInferResponse.FromString(encode_answer("digits", ident, answer))
        assert (said.model_name, said.model_version, said.id) == ("digits", "3", ident)
        assert [(o.name, o.datatype, tuple(o.shape)) for o in said.outputs] == [tuple(spec_of(o)) for o in outputs]
        assert list(said.raw_output_contents) == frames
        values = {name: getattr(p, p.WhichOneof("parameter_choice")) for name, p in said.parameters.items()}
        assert values == {"variant": "int8", "device": "cam-1", **marks}


def spec_of(spec):
    return spec.name, spec.dtype, spec.shape


def test_a_view_of_other_items_is_sent_whole():
    """Its length is counted in bytes."""
    view = memoryview(bytearray(16)).cast("f")
    answer = InferAnswer(1, "", "", (TensorSpec("y", "FP32", (4,)),), [view])
    assert m.ModelInferResponse.FromString(encode_answer("m", "", answer)).raw_output_contents[0] == bytes(16)


def test_many_shapes_do_not_fill_the_memory():
    """What is remembered has a bound."""
    from msrt.serving.grpc import codec  # noqa: PLC0415

    for rows in range(1, 3000):
        encode_answer("m", "", InferAnswer(1, "", "", (TensorSpec("y", "BOOL", (rows,)),), [bytes(rows)]))
        model_of(f"m{rows}", "")
    assert len(codec._heads) <= 1024
    assert len(codec._names) <= 1024
