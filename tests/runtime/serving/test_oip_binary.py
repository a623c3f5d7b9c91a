"""Tensors in binary: mixed with JSON, in and out, and every size that cannot be."""

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
from msrt.serving import oip
from msrt.serving.backend import InferAnswer
from msrt.serving.oip import decode_infer, encode_mixed
from msrt.serving.oip_binary import How
from tests.runtime.serving.caller import Master, call

PATH = "/v2/models/digits/infer"
TWO = struct.pack("<2f", 1.5, -2)
ALL = How(binary=True, chosen={}, classes={})


def one(name="x", dtype="FP32", shape=(2,), size=None, **more):
    """A tensor's words; with `size`, its bytes come behind."""
    said = {"name": name, "datatype": dtype, "shape": list(shape), **more}
    return said if size is None else {**said, "parameters": {"binary_data_size": size}}


def ask(inputs, tail=b"", *, length=None, master=None, **extra):
    """One call with bytes behind the JSON."""
    head = json.dumps({"inputs": inputs, **extra}).encode()
    headers = {"inference-header-content-length": str(len(head)) if length is None else length}
    return call(PATH, head + tail, master=master, headers=headers)


def halves(answer):
    """The JSON of an answer, and the bytes behind."""
    length = int(answer.headers["inference-header-content-length"])
    assert answer.headers["content-type"] == "application/octet-stream"
    return json.loads(answer.body[:length]), answer.body[length:]


# --- in --------------------------------------------------------------------------------------------------------------


def test_binary_and_json_inputs_may_be_mixed():
    """Each input takes its bytes in the order of the inputs, whatever stands between."""
    master = Master()
    inputs = [one("a", size=8), one("b", data=[3, 4]), one("c", "INT16", (1,), size=2)]
    assert ask(inputs, TWO + b"\x07\x00", master=master).status == 200
    (request,) = master.asked
    assert [bytes(frame) for frame in request.frames] == [TWO, struct.pack("<2f", 3, 4), b"\x07\x00"]
    assert [spec.name for spec in request.inputs] == ["a", "b", "c"]


TENSORS = st.builds(
    one, st.sampled_from("ab"), st.sampled_from(["FP32", "INT8", "BYTES", "FP99"]),
    st.sampled_from([(2,), (1,), (0,), (-1,)]), st.sampled_from([0, 1, 2, 4, 8, True, None, "8"]),
)  # fmt: skip
WORDS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, max_size=2)},
    optional={
        "id": st.text(max_size=3),
        "outputs": st.just([{"name": "y", "parameters": {"binary_data": True}}]),
        "parameters": st.sampled_from(
            [{"timeout": 1000}, {"priority": 1}, {"sequence_id": "s", "sequence_start": True}, {"timeout": -1}, {}]
        ),
    },
)


def said(head, tail):
    """All that a body means, or what is wrong with it."""
    try:
        ident, request, how = decode_infer(head + tail, "m", 2, timeout_s=5.0, length=b"%d" % len(head))
    except CallerError as error:
        return str(error)
    fields = {name: getattr(request, name) for name in request.__struct_fields__ if name != "frames"}
    return ident, fields, [bytes(frame) for frame in request.frames], how


@given(words=WORDS, tail=st.sampled_from([b"", b"\1", b"\1\2", TWO, TWO + TWO]))
def test_what_is_remembered_means_what_was_read(words, tail):
    """The same words a second time, and where nothing is remembered: the same request, the same error."""
    head = json.dumps(words).encode()
    first, again = said(head, tail), said(head, tail)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oip, "REMEMBERED", -1)
        assert first == again == said(head, tail)


def test_halves_and_strings_come_as_they_are():
    """FP16 and BYTES, of any bytes."""
    master = Master()
    texts = pack_strings([b"\xff\x00", "\xfc"])
    inputs = [one("a", "FP16", (1, 2), size=4), one("b", "BYTES", (2,), size=len(texts))]
    assert (
        ask(inputs, struct.pack("<2e", 0.5, 2) + texts, master=master, parameters={"binary_data_output": True}).status
        == 200
    )
    assert [bytes(frame) for frame in master.asked[0].frames] == [struct.pack("<2e", 0.5, 2), texts]


def test_a_large_tensor_is_not_copied():
    """It is a view of the body."""
    size = 4 << 16
    head = json.dumps({"inputs": [one(shape=(1 << 16,), size=size)]}).encode()
    body = head + bytes(size)
    _, request, _ = decode_infer(body, "m", length=b"%d" % len(head))
    frame = request.frames[0]
    assert isinstance(frame, memoryview)
    assert frame.obj is body


BAD = {
    "not as many as the shape takes": ([one(size=7)], b"1234567", {}, "takes 8 bytes, got 7"),
    "more than are there": ([one(size=8)], b"123", {}, "binary_data_size is 8, of the body's tensors 3 bytes are left"),
    "a negative size": ([one(size=-1)], b"", {}, "'x': binary_data_size is not"),
    "a size that is a text": ([one(size="8")], TWO, {}, "'x': binary_data_size is not"),
    "a size that is true": ([one("x", "BOOL", (1,), size=True)], b"\0", {}, "'x': binary_data_size is not"),
    "bytes of nobody": ([one(size=8)], TWO + b"12", {}, "2 bytes after the last tensor"),
    "data as well": ([one(size=8, data=[1, 2])], TWO, {}, "'x': data beside binary_data_size"),
    "a length that is none": ([one(size=8)], TWO, {"length": "x"}, "Inference-Header-Content-Length is not a number"),
    "a negative length": ([one(size=8)], TWO, {"length": "-3"}, "Inference-Header-Content-Length is not a number"),
    "a length beyond the body": ([one(size=8)], TWO, {"length": "999"}, "Inference-Header-Content-Length is 999"),
    "a length in the midst of the JSON": ([one(size=8)], TWO, {"length": "9"}, "not JSON"),
    "strings that run over": ([one("s", "BYTES", (1,), size=8)], b"\x09\0\0\0abcd", {}, "'s': a string of 9 bytes"),
    "too few strings": ([one("s", "BYTES", (9,), size=4)], b"\0\0\0\0", {}, "'s': 4 bytes cannot hold 9 strings"),
    "an unknown datatype": ([one(dtype="FP8", size=8)], TWO, {}, "datatype 'FP8' is not supported"),
    "a negative dimension": ([one(shape=(-1,), size=8)], TWO, {}, "shape [-1] cannot be"),
    "a dimension that is no size": ([one(shape=(0, 1 << 62), size=0)], b"", {}, "cannot be"),
    "shared memory": ([one() | {"parameters": {"shared_memory_region": "r"}}], b"", {}, "shared memory is unsupported"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_size_that_cannot_be_is_named(kind):
    """400, with the tensor and the numbers."""
    inputs, tail, more, fault = BAD[kind]
    answer = ask(inputs, tail, **more)
    assert answer.status == 400
    assert fault in answer.json["error"]


def test_a_size_without_the_header_is_named():
    """Who sends no header cannot have tensors behind the JSON."""
    answer = call(PATH, {"inputs": [one(size=8)]})
    assert (answer.status, "Inference-Header-Content-Length" in answer.json["error"]) == (400, True)


@given(st.binary(max_size=200), st.integers(0, 250))
@settings(max_examples=150)
def test_any_bytes_are_a_request_or_a_fault_of_the_caller(body, length):
    """Nothing else comes of it."""
    with contextlib.suppress(CallerError):
        decode_infer(b'{"inputs": [' + body, "m", length=b"%d" % length)


# --- out -------------------------------------------------------------------------------------------------------------


def test_all_outputs_may_be_binary():
    """By the parameter of the request: the header says where the tensors begin."""
    said, tail = halves(ask([one(size=8)], TWO, parameters={"binary_data_output": True}, id="q"))
    assert said["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}]
    assert (tail, said["id"]) == (TWO, "q")


def test_what_an_output_says_of_itself_goes_first():
    """JSON although the request wants binary, and binary although it says nothing."""
    answer = ask([one(size=8)], TWO, parameters={"binary_data_output": True},
                 outputs=[{"name": "y", "parameters": {"binary_data": False}}])  # fmt: skip
    assert "inference-header-content-length" not in answer.headers
    assert answer.json["outputs"][0]["data"] == [1.5, -2]
    _, tail = halves(
        call(PATH, {"inputs": [one(data=[1.5, -2])], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]})
    )
    assert tail == TWO


def test_json_and_binary_outputs_may_be_mixed():
    """Bytes lie in the order of the outputs."""
    specs = (TensorSpec("a", "FP16", (1,)), TensorSpec("b", "FP32", (2,)), TensorSpec("c", "BYTES", (1,)))
    frames = [struct.pack("<e", 2), TWO, pack_strings([b"\xff"])]
    how = How(binary=True, chosen={"b": False}, classes={})
    length, body = encode_mixed("m", "", InferAnswer(1, "", "", specs, frames), how)
    said = json.loads(body[:length])["outputs"]
    assert [out.get("parameters") for out in said] == [{"binary_data_size": 2}, None, {"binary_data_size": 5}]
    assert said[1]["data"] == [1.5, -2]
    assert body[length:] == frames[0] + frames[2]


@given(st.lists(st.binary(max_size=300), max_size=4), st.text(max_size=20))
@settings(max_examples=60)
def test_sizes_add_up(frames, ident):
    """The JSON's length and its binary sizes are the body's."""
    specs = tuple(TensorSpec(f"y{n}", "UINT8", (len(frame),)) for n, frame in enumerate(frames))
    length, body = encode_mixed("m", ident, InferAnswer(1, "", "", specs, [memoryview(f) for f in frames]), ALL)
    said = json.loads(body[: length or len(body)])
    assert sum(out["parameters"]["binary_data_size"] for out in said["outputs"]) == len(body) - (length or len(body))


# --- classes ---------------------------------------------------------------------------------------------------------


def test_an_output_may_be_its_best_classes():
    """Value, index and label where the model has some; as BYTES, in JSON or binary."""
    wanted = {"name": "y", "parameters": {"classification": 2}}
    body = {"inputs": [one(shape=(1, 3), data=[0.25, 3, -1])], "outputs": [wanted]}
    (out,) = call(PATH, body, master=Labelled()).json["outputs"]
    assert out == {"name": "y", "datatype": "BYTES", "shape": [1, 2], "data": ["3.000000:1:dog", "0.250000:0:cat"]}
    wanted["parameters"]["binary_data"] = True
    said, tail = halves(call(PATH, body, master=Labelled()))
    assert said["outputs"][0]["datatype"] == "BYTES"
    assert tail == pack_strings(["3.000000:1:dog", "0.250000:0:cat"])


class Labelled(Master):
    """Its model has two names for three classes."""

    def metadata(self, model, version=0):
        info = super().metadata(model, version)
        return type(info)(info.name, info.versions, info.inputs, info.outputs, labels=("cat", "dog"))


def test_strings_have_no_classes():
    """400 names the output."""
    wanted = [{"name": "y", "parameters": {"classification": 1}}]
    answer = call(PATH, {"inputs": [one(dtype="BYTES", data=["a", "b"])], "outputs": wanted})
    assert (answer.status, "'y'" in answer.json["error"]) == (400, True)
