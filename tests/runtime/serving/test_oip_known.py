"""Bodies that differ in their numbers only are read by what is known of the others, and mean what they say."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt.errors import MsrtError
from msrt.serving import oip, oip_known
from msrt.serving.oip import decode_infer


@pytest.fixture(autouse=True)
def _nothing_known():
    oip_known._seen_around.clear()
    oip_known._numbers.cache_clear()


def read(body, times=1):
    """What so many readings of it say, or why they fail: the first knows nothing."""
    found = []
    for _ in range(times):
        try:
            ident, request, how = decode_infer(body, "m", 0, timeout_s=5.0)
        except MsrtError as error:
            found.append((type(error), error.text))
        else:
            found.append((ident, request.inputs, [bytes(f) for f in request.frames], request.timeout_s, how))
    return found


def body_of(data, dtype="FP32", shape=None, **more):
    tensor = {"name": "x", "shape": shape or [len(data)], "datatype": dtype, "data": data}
    return json.dumps({"inputs": [tensor], **more}).encode()


def test_other_numbers_are_read_by_the_same_plan(monkeypatch):
    """From the third on, no word around them is looked at."""
    for number in (1.5, 2.5):
        decode_infer(body_of([number, 0.25]), "m", 0)
    monkeypatch.setattr(oip, "read_body", None)
    _, request, _ = decode_infer(body_of([-3, 1e-3]), "m", 0)
    assert request.frames == (struct.pack("<2f", -3, 1e-3),)


DATA = st.one_of(
    st.lists(st.integers(-200, 300), max_size=4),
    st.lists(st.floats(-1e30, 1e30) | st.integers(-5, 5), max_size=4),
    st.lists(st.booleans() | st.none() | st.text(max_size=3), max_size=3),
    st.lists(st.lists(st.integers(0, 3), max_size=2), max_size=2),
)


@given(
    st.lists(DATA, min_size=2, max_size=4),
    st.sampled_from(["FP32", "INT8", "UINT64", "BOOL", "BYTES", "FP16", "none"]),
    st.sampled_from([[0], [1], [2], [1, 2], [-1], [3]]),
    st.sampled_from([{}, {"id": "a"}, {"id": '"data": [1]'}, {"parameters": {"timeout": 1000}}, {"outputs": []}]),
)  # fmt: skip
def test_what_is_known_changes_no_meaning(many, dtype, shape, more):
    """Whatever numbers come in the same words: the request, or the error, is that of a first reading."""
    bodies = [body_of(data, dtype, shape, **more) for data in many]
    fresh = []
    for body in bodies:
        oip_known._seen_around.clear()
        fresh += read(body)
    oip_known._seen_around.clear()
    for _ in range(2):
        assert [read(body)[0] for body in bodies] == fresh


ODD = (
    b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[%s],"data":[2]}]}',
    b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[%s],"data":[]}]}',
    b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[%s],"data":[0]}]}',
    b'{"id":"\\"data\\":[%s]","inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[5]}]}',
    b'{"x":{"data":[%s]},"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[5]}]}',
    b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"data":[%s]},"data":[5]}]}',
    b'{"inputs":[{"name":"x","shape":[%s],"datatype":"FP32"}]}',
    b'{"inputs":[{"data":[%s]},{"name":"x","shape":[1],"datatype":"FP32","data":[5]}]}',
    b'{"data":[%s]',
    b'"data"',
    b"[%s]",
)


@pytest.mark.parametrize("words", ODD)
def test_an_array_that_is_not_the_data_is_not_taken_for_it(words):
    """Named twice, in a string, elsewhere: read word by word, every time."""
    for number in (b"1", b"7", b"9", b"1"):
        body = words.replace(b"%s", number)
        oip_known._seen_around.clear()
        oip_known._numbers.cache_clear()
        fresh = read(body)[0]
        assert read(body, 3) == [fresh] * 3


def test_names_that_never_come_again_are_not_kept():
    """A caller that numbers its requests costs no memory, and no second reading."""
    for number in range(3 * oip_known.PLANS):
        decode_infer(body_of([1.0], id=str(number)), "m", 0)
    assert len(oip_known._seen_around) <= oip_known.PLANS
    assert oip_known._numbers.cache_info().currsize == 0
