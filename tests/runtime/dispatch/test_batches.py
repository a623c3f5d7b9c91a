"""Who rides together, and that each caller gets exactly its own rows."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from msrt.dispatch import Answered, Request
from msrt.dispatch.batching import SMALL, has_nan
from msrt.errors import InvalidTensor
from msrt.protocol.messages import Inferred, TensorSpec
from tests.runtime.dispatch.counter import Bench, echo, failed, question, ready, rows_of


def test_requests_of_one_turn_ride_together_and_each_gets_its_rows():
    """Three requests submitted at once are one batch; its answer is cut by rows."""
    bench = Bench("a")
    (send,) = bench.ask(question((1, 2)), question((3,)), question((4, 5, 6)))
    assert send.message.rows == (2, 1, 3)
    assert send.message.inputs[0].shape == (6, 1)
    bench.do(echo(send))
    assert [rows_of(reply) for reply in bench.replies] == [(1, 2), (3,), (4, 5, 6)]
    assert all(isinstance(reply.frames[0], memoryview) for reply in bench.replies)
    bench.end()


def test_what_arrives_while_the_window_is_full_rides_in_the_next_batch():
    """Two batches fly; five more requests wait and go as one when the first lands, before its answers."""
    bench = Bench("a")
    sends = bench.ask(question()) + bench.ask(question())
    assert [bench.ask(question((n,))) for n in range(5)] == [[]] * 5
    actions = bench.dispatcher.handle(echo(sends[0]), 0.01)
    assert [type(action).__name__ for action in actions] == ["Send", "Reply"]
    assert len(actions[0].message.ids) == 5


def test_other_shapes_and_models_ride_apart():
    """Trailing shape, dtype and wanted outputs part batches."""
    bench = Bench("a")
    wanted = question()
    wanted.outputs = ("y",)
    sends = (
        bench.ask(question(), question(width=2), wanted) + bench.do(echo(bench.sent[0])) + bench.do(echo(bench.sent[1]))
    )
    assert [len(send.message.ids) for send in bench.sent] == [1, 1, 1]
    assert len(sends) == 3


def test_a_model_with_a_fixed_axis_gets_one_request_at_a_time():
    """Requests ride together only if the worker says that the model's axis 0 is free."""
    bench = Bench("a", models=(ready(batch=False),))
    sends = bench.ask(question(), question(), question())
    assert [len(send.message.ids) for send in sends] == [1, 1]


def test_a_batch_keeps_to_rows_and_to_the_links_bytes():
    """Neither max_batch_rows nor the link's limit is passed by joining."""
    bench = Bench("a", max_batch_rows=4, window=10)
    assert [len(send.message.ids) for send in bench.ask(*(question((n,)) for n in range(9)))] == [4, 4, 1]
    small = Bench("a", limit=12, window=10)
    assert [len(send.message.ids) for send in small.ask(*(question((n,)) for n in range(7)))] == [3, 3, 1]


def test_a_request_that_no_link_takes_is_refused_and_one_that_some_take_goes_there():
    """Size decides who may have a request; over all limits it is the caller's fault."""
    bench = Bench("thin", limit=8)
    bench.ask(question((1, 2, 3)))
    assert bench.rejects[0].error.code == "frame_too_large"
    bench.up("wide")
    for _ in range(2):
        (send,) = bench.ask(question((1, 2, 3)))
        assert send.worker == "wide"


@pytest.mark.parametrize(
    ("specs", "frames"),
    [
        ((TensorSpec("x", "FP32", (1, 4)),), (b"123",)),
        ((TensorSpec("x", "FP32", (1, 4)),), (b"1" * 20,)),
        ((TensorSpec("x", "FP32", (1, 4)),), ()),
        ((TensorSpec("x", "FP32", ()),), (b"12",)),
        ((TensorSpec("x", "INT8", (-1, 4)),), (b"1234",)),
    ],
)
def test_a_wrong_byte_count_is_refused_before_it_can_shift_others(specs, frames):
    """A tensor whose bytes do not match its shape never joins a batch."""
    bench = Bench("a")
    assert bench.ask(Request("m", specs, frames, 5.0)) == []
    assert isinstance(bench.rejects[0].error, InvalidTensor)
    bench.end()


def test_a_batch_that_one_request_spoils_is_tried_apart():
    """When a worker calls a batch invalid, each rides alone and only the guilty one is told."""
    bench = Bench("a", window=1)
    requests = [question((n,)) for n in range(3)]
    (send,) = bench.ask(*requests)
    sends = bench.do(failed(send, "invalid_tensor"))
    while sends:
        (send,) = sends
        assert len(send.message.ids) == 1
        guilty = send.frames[0] == (1).to_bytes(4, "little")
        sends = bench.do(failed(send, "invalid_tensor") if guilty else echo(send))
    assert [rows_of(reply) for reply in bench.replies] == [(0,), (2,)]
    assert [reject.error.code for reject in bench.rejects] == ["invalid_tensor"]
    bench.end()


@pytest.mark.parametrize(
    ("shape", "data", "rows"),
    [
        ((3, 1), b"0" * 8, (1, 1)),
        ((2, 1), b"0" * 7, (1, 1)),
        ((1, 1), b"0" * 4, (1, 1)),
        ((2, 1), b"0" * 8, (2, 1)),
        ((2, 1), b"0" * 8, (2,)),
        ((2, 1), b"0" * 8, (3, -1)),
        ((), b"0" * 4, (1, 1)),
    ],
)
def test_an_answer_of_another_shape_reaches_nobody(shape, data, rows):
    """Outputs that do not have exactly the rows asked for are never cut; the requests go again, alone."""
    bench = Bench("a")
    (send,) = bench.ask(question((1,)), question((2,)))
    bad = Inferred(send.message.ids, rows, "m", 1, "fp32", "d", (TensorSpec("y", "INT32", shape),))
    bench.do(Answered("a", bad, (data,)))
    assert not bench.replies
    assert bench.dispatcher.counters.invalid == 1
    while bench.until(bench.now + 0.06) or len(bench.replies) < 2:
        bench.do(echo(bench.sent[-1]))
        if len(bench.sent) > 2:
            bench.do(echo(bench.sent[-2]))
    assert sorted(rows_of(reply) for reply in bench.replies) == [(1,), (2,)]
    bench.end()


def test_a_part_of_a_batch_may_be_answered_and_the_rest_fail():
    """A worker answers two of three and gives the third back; the third goes to another worker."""
    bench = Bench("a", "b", window=1)
    (send,) = bench.ask(question((1,)), question((2,)), question((3,)))
    ids = send.message.ids
    some = Inferred(ids[:2], (1, 1), "m", 1, "fp32", "d", (TensorSpec("y", "INT32", (2, 1)),))
    bench.do(Answered(send.worker, some, (send.frames[0][:8],)))
    assert [rows_of(reply) for reply in bench.replies] == [(1,), (2,)]
    send.message = send.message.__class__(ids[2:], (1,), "m", send.message.inputs)
    (again,) = bench.do(failed(send, "unavailable"))
    assert again.worker != send.worker
    bench.do(echo(again))
    assert rows_of(bench.replies[-1]) == (3,)
    bench.end()


def computed(bench, send, took):
    """The worker answers after so many microseconds, and 200 on the way; what is sent then."""
    bench.now += (took + 200) / 1e6
    answered = echo(send)
    message = msgspec.structs.replace(answered.message, compute_us=took)
    return bench.do(Answered(answered.worker, message, answered.frames))


def timed(bench, us_of):
    """A worker that has told what batches of 1, 4 and 16 rows cost."""
    for count in (1, 4, 16, 4, 1, 16) * 4:
        fly = bench.ask(*(question((n,)) for n in range(count)))
        while fly:
            fly = fly[1:] + computed(bench, fly[0], us_of(len(fly[0].message.ids)))


def test_what_costs_by_the_row_flies_in_batches_of_like_size():
    """Two halves: one is on its way while the other is computed."""
    bench = Bench("a")
    timed(bench, lambda rows: 5 + 40 * rows)
    sends = bench.ask(*(question((n,)) for n in range(16)))
    assert [len(send.message.ids) for send in sends] == [8, 8]


def test_a_few_rows_are_not_halved():
    """Another batch would cost more than it saves."""
    bench = Bench("a")
    timed(bench, lambda rows: 5 + 40 * rows)
    assert [len(send.message.ids) for send in bench.ask(*(question((n,)) for n in range(14)))] == [14]


def test_a_large_batch_is_not_sent_behind_a_small_one():
    """With what flies already, each takes its part; no more than two fly, and the rest goes when the first lands."""
    bench = Bench("a", max_window=2)
    timed(bench, lambda rows: 5 + 40 * rows)
    small = bench.ask(question())
    assert [len(send.message.ids) for send in bench.ask(*(question((n,)) for n in range(15)))] == [8]
    assert [len(send.message.ids) for send in computed(bench, small[0], 45)] == [7]


@pytest.mark.parametrize("us_of", [lambda _rows: 500, lambda rows: 300 + 20 * rows, lambda rows: 5 + rows])
def test_what_costs_by_the_batch_is_not_halved(us_of):
    """Nor what is too quick for it to matter."""
    bench = Bench("a")
    timed(bench, us_of)
    assert [len(send.message.ids) for send in bench.ask(*(question((n,)) for n in range(16)))] == [16]


@pytest.mark.parametrize(("dtype", "name"), [("<f2", "FP16"), ("<f4", "FP32"), ("<f8", "FP64")])
@pytest.mark.parametrize("count", [2, SMALL])
def test_nan_is_found_in_small_tensors_and_in_large_ones(dtype, name, count):
    """However it is looked for; infinities, whose sum is none, are none."""
    values = np.zeros(count, dtype)
    spec = (TensorSpec("y", name, (count,)),)
    values[:2] = math.inf, -math.inf
    assert not has_nan(spec, [values.tobytes()])
    values[-1] = math.nan
    assert has_nan(spec, [memoryview(values.tobytes())])
