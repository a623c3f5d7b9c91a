"""What is asked and answered over HTTP: arrays, errors, events, sequences."""

from __future__ import annotations

import asyncio
import sys

import numpy as np
import pytest

from msrt import errors
from msrt.errors import base
from msrt.inference.tensors import array_of, frame_of, spec_of
from msrt.protocol.messages import TensorSpec
from msrt.serving.backend import ModelInfo
from tests.runtime.client import edges
from tests.runtime.client.fronts import ROWS, play
from tests.runtime.hop.tree import until
from tests.runtime.serving.caller import event

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ALL_ERRORS = sorted(
    {kind for kind in base._by_code.values() if kind.__module__.startswith("msrt.errors.")}, key=lambda kind: kind.code
)


def made(kind):
    """An error of that kind, with a sentence and its usual hint."""
    own: dict[type, tuple[object, ...]] = {
        errors.FrameTooLarge: (7, 5), errors.TrustExpired: ("timestamp", 5.0), errors.NoRoom: ("a model", 7, 5, "it"),
    }  # fmt: skip
    return kind(*own.get(kind, ("it did not work",)))


def test_an_answer_over_http():
    """Arrays go and come; version, variant and device are named; the version asked for is in the path."""

    async def scenario(fronts, client):
        answer = await client.infer("digits@3", {"x": ROWS})
        np.testing.assert_array_equal(answer["y"], ROWS)
        assert answer["y"].dtype == np.float32
        assert (answer.version, answer.variant, answer.device) == (3, "int8", "cam-1")
        [asked] = fronts.masters[0].asked
        assert (asked.version, asked.inputs[0].shape) == (3, (2, 3))
        assert 5 < asked.timeout_s <= 10

    play(scenario)


@pytest.mark.parametrize("json", [False, True], ids=["binary", "json"])
def test_bfloat16_survives(json):
    """There and back in both ways; lists become it where the model takes it."""
    array = np.array([[1.5, -2.0, 0.0]], pytest.importorskip("ml_dtypes").bfloat16)

    async def scenario(fronts, client):
        answer = await client.infer("digits", {"x": array})
        assert answer["y"].dtype == array.dtype
        np.testing.assert_array_equal(answer["y"], array)
        master = fronts.masters[0]
        info = ModelInfo("digits", (1,), (TensorSpec("x", "BF16", (-1, 3)),), (TensorSpec("y", "BF16", (-1, 3)),))
        master.metadata = lambda _model, _version=0: info
        answer = await client.infer("digits", [[1.5, -2.0, 0.0]])
        np.testing.assert_array_equal(answer["y"], array)
        assert master.asked[-1].inputs[0].dtype == "BF16"

    play(scenario, json=json)


@pytest.mark.parametrize(
    "array",
    [np.array([[True, False]]), np.array([[1, -2]], np.int8), np.array([["a", "ü"]], object),
     np.array([[0.5]], np.float16), np.array([[1 << 60]], np.int64), np.zeros((0, 3), np.float32),
     np.arange(12, dtype=">f4").reshape(3, 4), np.arange(12, dtype=np.int32).reshape(3, 4)[:, ::2],
     np.asfortranarray(np.arange(6.0).reshape(2, 3))],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("json", [False, True], ids=["binary", "json"])
def test_every_kind_of_array_survives(array, json):
    """There and back, the same: also of another byte order, with gaps, and column by column; in both ways to say it."""

    async def scenario(_fronts, client):
        answer = await client.infer("digits", {"x": array})
        np.testing.assert_array_equal(answer["y"], array)
        assert answer["y"].shape == array.shape
        assert array.dtype == object or not answer["y"].flags.writeable

    play(scenario, json=json)


def test_lists_are_made_what_the_model_takes():
    """The model's metadata is asked once."""

    async def scenario(fronts, client):
        await client.infer("digits", [[1] * 64])
        await client.infer("digits", [[2] * 64])
        assert [asked.inputs[0].dtype for asked in fronts.masters[0].asked] == ["FP32", "FP32"]
        assert (await client.metadata("digits")).versions == (1, 3)

    play(scenario)


@pytest.mark.parametrize(
    "error",
    [errors.InvalidTensor("x is wrong"), errors.NotFound("no such model"), errors.DeadlineExceeded("too late")],
)
def test_errors_are_themselves_again(error):
    """What the edge says no to is raised as the same type with the same text, after one request."""

    async def scenario(fronts, client):
        fronts.masters[0].error = error
        with pytest.raises(type(error), match=error.text):
            await client.infer("digits", {"x": ROWS})
        assert len(fronts.masters[0].asked) == 1

    play(scenario)


def test_what_json_cannot_say_is_said():
    """NaN is refused here, before it is sent."""

    async def scenario(_fronts, client):
        with pytest.raises(errors.InvalidTensor, match="NaN"):
            await client.infer("digits", {"x": np.array([[np.nan]])})

    play(scenario, json=True)


def test_events_of_all_edges_come_once():
    """Two edges, one of which tells of an event that the other told of too."""

    async def scenario(fronts, client):
        seen = []

        async def follow():
            async for one in client.events(model="digits"):
                seen.append(one.seq)
                if len(seen) == 4:
                    return

        task = asyncio.get_running_loop().create_task(follow())
        await until(lambda: all(master.followers for master in fronts.masters))
        for seq, master in ((1, 0), (2, 1), (2, 0), (3, 0), (4, 1)):
            fronts.masters[master].queue.put_nowait(event(seq))
        fronts.masters[0].queue.put_nowait(event(9, model="other"))
        await task
        assert sorted(seen) == [1, 2, 3, 4]

    play(scenario, count=2)


def test_events_go_on_after_an_edge_came_back():
    """The end of a stream is not the end of the events."""

    async def scenario(fronts, client):
        events = client.events()
        master = fronts.masters[0]
        first = asyncio.get_running_loop().create_task(anext(events))
        master.queue.put_nowait(event(1))
        assert (await first).seq == 1
        master.queue.put_nowait(None)
        second = asyncio.get_running_loop().create_task(anext(events))
        master.queue.put_nowait(event(2))
        assert (await second).seq == 2
        await events.aclose()

    play(scenario)


def test_tensors_are_not_copied():
    """A large array goes out as it lies in memory, and comes in as a view of what was received, aligned."""
    rows = np.arange(1 << 18, dtype=np.float32).reshape(1, -1)
    sent, received = [], []

    async def scenario(_fronts, client):
        [front] = client._core.fronts
        pool, parts, answered = front._pool, front._parts, front._answered
        front._parts = lambda *of: sent.append(parts(*of)) or sent[-1]
        front._answered = lambda ident, response: (received.append(response.body), answered(ident, response))
        answer = await client.infer("digits", {"x": rows})
        assert any(np.shares_memory(np.frombuffer(part, np.uint8), rows) for part in sent[0])
        assert np.shares_memory(np.frombuffer(received[0], np.uint8), answer["y"])
        assert answer["y"].flags.aligned
        np.testing.assert_array_equal(answer["y"], rows)
        assert pool is front._pool

    play(scenario)


def test_bfloat16_needs_its_package():
    """With it arrays are what they were; without, the error names it."""
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    array = np.array([[1.5, -2.0]], bfloat16)
    spec = spec_of("x", array)
    assert spec.dtype == "BF16"
    np.testing.assert_array_equal(array_of(spec, frame_of(array)), array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ml_dtypes", None)
        with pytest.raises(errors.InvalidTensor, match="pip install ml_dtypes"):
            array_of(spec, frame_of(array))


def test_what_the_caller_asks_for_is_said():
    """Priority, wanted outputs, version and trace are in the request; the edge's marks are in the answer."""

    async def scenario(fronts, client):
        master = fronts.masters[0]
        master.marks = {"answered_by": "cloud"}
        answer = await client.infer("digits", {"x": ROWS}, priority=1, outputs=["y"], version=3, trace=TRACE)
        await client.infer("digits", {"x": ROWS}, priority=-1)
        first, second = master.asked
        assert (first.priority, first.outputs, first.version, first.trace) == (1, ("y",), 3, TRACE)
        assert (second.priority, second.outputs, second.version, second.trace) == (-1, (), 0, "")
        assert answer.marks == {"answered_by": "cloud"}
        assert 0 < answer.seconds < 5
        assert answer.request_id

    play(scenario)


def test_a_sequence_says_where_it_begins_and_ends():
    """The same id in each step, the marks of the first and the last one."""

    async def scenario(fronts, client):
        async with client.sequence("digits") as sequence:
            await sequence.infer({"x": ROWS})
            await sequence.infer({"x": ROWS * 2})
        asked = fronts.masters[0].asked
        assert {one.sequence for one in asked} == {sequence.id}
        assert [(one.sequence_start, one.sequence_end) for one in asked] == [
            (True, False),
            (False, False),
            (False, True),
        ]

    play(scenario)


@pytest.mark.parametrize("kind", ALL_ERRORS, ids=lambda kind: kind.code)
def test_every_error_is_itself_on_both_links(kind):
    """What an edge raises is raised here: of the same type with the same sentence, over HTTP and over ZeroMQ."""
    error = made(kind)

    async def over_http(fronts, client):
        fronts.masters[0].error = error
        with pytest.raises(kind) as raised:
            await client.infer("digits", {"x": ROWS}, deadline=0.3)
        assert type(raised.value) is kind
        assert str(raised.value) == str(error)

    async def over_zeromq(stage, client):
        stage["a"].trouble = lambda _message: error
        with pytest.raises(kind) as raised:
            await client.infer("double", {"x": np.ones((1, 2), np.float32)}, deadline=0.3)
        assert type(raised.value) is kind
        assert str(raised.value) == str(error)

    play(over_http)
    edges.play(over_zeromq, edges=("a",))
