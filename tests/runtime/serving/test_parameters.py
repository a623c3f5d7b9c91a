"""What a request's parameters mean, and outputs as classes."""

from __future__ import annotations

import struct

import pytest

from msrt.errors import CallerError, InvalidTensor
from msrt.inference.tensors import strings_in
from msrt.protocol.messages import TensorSpec
from msrt.serving.backend import InferAnswer, InferRequest
from msrt.serving.parameters import apply_parameters, class_count, classified


def asked(**parameters):
    request = InferRequest("m", (), (), 10.0)
    apply_parameters(request, parameters)
    return request


@pytest.mark.parametrize(("given", "meant"), [(0, 0), (1, 1), (2, 0), (3, -1), (9, -1)])
def test_priorities_count_from_the_most_urgent_on(given, meant):
    """1 is urgent, 2 as by default, what comes after is background."""
    assert asked(priority=given).priority == meant


def test_a_timeout_only_shortens():
    """Microseconds; 0 is endless, and the front's own bound stays."""
    assert [asked(timeout=given).timeout_s for given in (0, 250_000, 60_000_000)] == [10.0, 0.25, 10.0]


def test_a_sequence_is_named_by_number_or_text():
    """0 and the empty text are none, and then its flags mean nothing."""
    request = asked(sequence_id=7, sequence_start=True, sequence_end=True)
    assert (request.sequence, request.sequence_start, request.sequence_end) == ("7", True, True)
    assert asked(sequence_id="talk").sequence == "talk"
    for none in (0, ""):
        request = asked(sequence_id=none, sequence_start=True)
        assert (request.sequence, request.sequence_start) == ("", False)


@pytest.mark.parametrize(
    "bad",
    [
        {"priority": -1}, {"priority": "high"}, {"priority": True}, {"timeout": 0.5}, {"timeout": -1},
        {"sequence_id": 0.5}, {"sequence_id": True}, {"sequence_id": "x" * 200},
        {"sequence_id": 1, "sequence_start": 1}, {"sequence_id": 1, "sequence_end": "yes"},
    ],
)  # fmt: skip
def test_a_parameter_of_the_wrong_kind_is_named(bad):
    """The sentence says which."""
    with pytest.raises(CallerError, match=list(bad)[-1]):
        asked(**bad)


# --- classes ---------------------------------------------------------------------------------------------------------


def classes(values, shape, count, *, dtype="FP32", kind="f", labels=()):
    answer = InferAnswer(1, "v", "d", (TensorSpec("y", dtype, shape),), [struct.pack(f"<{len(values)}{kind}", *values)])
    given = classified(answer, {"y": count}, {"y": labels})
    (spec,) = given.outputs
    return spec.shape, [item.decode() for item in strings_in(spec, given.frames[0])]


def test_the_best_classes_come_first():
    """As value:index, per row of a batch; labels where they are known."""
    values = [0.25, 0.5, 0.125, 3, 1, 2]
    shape, texts = classes(values, (2, 3), 2, labels=("cat", "dog"))
    assert shape == (2, 2)
    assert texts == ["0.500000:1:dog", "0.250000:0:cat", "3.000000:0:cat", "2.000000:2"]


def test_an_output_of_one_axis_is_one_row():
    """Integers stay integers, and of equals the first is the better."""
    assert classes([5, 7, 7], (3,), 2, dtype="INT64", kind="q") == ((2,), ["7:1", "7:2"])


def test_more_classes_than_there_are():
    """All of them, in order."""
    assert classes([1, 2], (1, 2), 99, dtype="FP16", kind="e") == ((1, 2), ["2.000000:1", "1.000000:0"])


def test_no_rows_have_no_classes():
    """An empty batch stays one."""
    assert classes([], (0, 3), 2) == ((0, 0), [])


def test_other_outputs_stay_as_they_are():
    """Bytes and all."""
    frame = memoryview(bytes(8))
    answer = InferAnswer(1, "v", "d", (TensorSpec("z", "FP32", (1, 2)),), [frame], {"tier": "edge"})
    given = classified(answer, {"y": 2}, {})
    assert (given.outputs, given.frames, given.marks) == (answer.outputs, [frame], answer.marks)


def test_text_has_no_classes():
    """There is nothing to compare."""
    answer = InferAnswer(1, "v", "d", (TensorSpec("y", "BYTES", (0,)),), [b""])
    with pytest.raises(InvalidTensor, match="'y' is BYTES"):
        classified(answer, {"y": 1}, {})


@pytest.mark.parametrize("bad", [-1, 0.5, True, "3"])
def test_a_number_of_classes_is_a_number(bad):
    """From 0, which asks for the tensor itself."""
    assert class_count("y", 3) == 3
    with pytest.raises(CallerError, match="'y'"):
        class_count("y", bad)
