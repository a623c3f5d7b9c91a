"""Bodies of the Open Inference Protocol as a client reads them: whatever a server says, an answer or a typed error."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt import errors
from msrt.client.http_body import decode_answer, encode_request, error_of
from msrt.client.request import Ask, Request, tensors_of
from msrt.client.waiters import Blocked

HEAD = {
    "model_name": "m", "model_version": "3", "parameters": {"variant": "int8", "device": "d", "cached": True},
    "outputs": [
        {"name": "y", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}},
        {"name": "z", "datatype": "INT64", "shape": [1], "data": [7]},
        {"name": "s", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 11}},
    ],
}  # fmt: skip
TENSORS = np.arange(4, dtype=np.float32).tobytes() + b"\x01\0\0\0a\x02\0\0\0\xc3\xbc"


def whole(head=HEAD, tensors=TENSORS):
    text = json.dumps(head).encode()
    return memoryview(text + tensors), b"%d" % len(text)


def test_an_answer_in_both_ways_at_once():
    """Some outputs binary, others JSON; who made it, and the marks that are left."""
    answer = decode_answer(*whole())
    np.testing.assert_array_equal(answer["y"], [[0, 1], [2, 3]])
    assert answer["z"].tolist() == [7]
    assert answer["s"].tolist() == ["a", "ü"]
    assert (answer.version, answer.variant, answer.device, answer.marks) == (3, "int8", "d", {"cached": True})


@pytest.mark.parametrize("binary", [True, False])
def test_requests_of_one_kind_say_the_same(binary):
    """So that an edge knows the words again: neither id nor trace is among them. Another kind says something else."""

    def said(number, ask, rows=1):
        tensors = tensors_of({"x": np.zeros((rows, 2), np.float32)})
        parts, length = encode_request(Request(number, ask, *tensors, 1.0, Blocked()), binary=binary)
        assert length == (len(parts[0]) if binary else 0)
        return parts[0]

    first = said(1, Ask("m"))
    assert said(2, Ask("m", trace="00-" + "1" * 32 + "-" + "1" * 16 + "-01")) == first
    others = [said(3, Ask("m"), rows=2), said(4, Ask("m", priority=1)), said(5, Ask("m", outputs=("y",)))]
    others.append(said(6, Ask("m", sequence="s", sequence_start=True)))
    assert len({first, *others}) == 5


def test_a_foreign_server_says_less():
    """No version, no parameters: the protocol does not ask for them."""
    body = json.dumps({"model_name": "m", "outputs": [{"name": "y", "datatype": "BOOL", "shape": [1], "data": [True]}]})
    answer = decode_answer(memoryview(body.encode()), None)
    assert (answer["y"].tolist(), answer.version, answer.device) == ([True], 0, "")


@pytest.mark.parametrize(
    ("change", "tensors"),
    [
        ({"binary_data_size": 17}, TENSORS), ({"binary_data_size": -1}, TENSORS), ({"binary_data_size": "x"}, TENSORS),
        ({"binary_data_size": 16}, TENSORS + b"more"), ({"binary_data_size": 16}, TENSORS[:-1]),
        ({"binary_data_size": 12}, TENSORS),
    ],
)  # fmt: skip
def test_sizes_that_do_not_add_up_are_malformed(change, tensors):
    """Too long, negative, no number, bytes left over, bytes missing, other than the shape takes."""
    head = json.loads(json.dumps(HEAD))
    head["outputs"][0]["parameters"] = change
    with pytest.raises(errors.MalformedFrame):
        decode_answer(*whole(head, tensors))


@given(st.data())
def test_damage_is_malformed_or_read(data):
    """A byte changed anywhere, the length of the JSON off by some: nothing but MalformedFrame is raised."""
    body, length = whole()
    hurt = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        hurt[data.draw(st.integers(0, len(hurt) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.sampled_from([length, b"", b"9" * 30, b"-1", b"\xb2", b"%d" % (int(length) + 1)]))
    try:
        decode_answer(memoryview(bytes(hurt)), length)
    except errors.MalformedFrame:
        return


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8,
)  # fmt: skip


@given(st.fixed_dictionaries({"outputs": st.lists(st.fixed_dictionaries({
    "name": st.text(max_size=3) | JSON, "datatype": st.sampled_from(["FP32", "INT8", "BYTES", "BOOL", "BF16", "?"]),
    "shape": st.lists(st.integers(-2, 1 << 65), max_size=3) | JSON, "data": JSON,
}), max_size=2)}, optional={"parameters": JSON, "model_version": st.text(max_size=3) | JSON}))  # fmt: skip
def test_any_json_is_an_answer_or_malformed(said):
    """However a server fills the fields."""
    try:
        decode_answer(memoryview(msgspec.json.encode(said)), None)
    except errors.MalformedFrame:
        return


@given(st.integers(300, 599), st.binary(max_size=40), st.binary(max_size=12), st.binary(max_size=5))
def test_any_refusal_is_a_typed_error(status, body, code, retry_after):
    """With a sentence, whatever the server sent along."""
    error = error_of(status, body, code, retry_after)
    assert isinstance(error, errors.MsrtError)
    assert str(error)
