"""Answers to a stream of inputs."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from msrt import errors
from msrt.client.waiters import Window
from tests.runtime.client.edges import play, rows
from tests.runtime.hop.tree import until


def numbered(count):
    return ({"x": rows(n)} for n in range(count))


def test_answers_come_in_the_order_of_the_inputs():
    """Each is the answer to its own input, and says which."""

    async def scenario(_stage, client):
        found = [(a.index, a["y"][0, 0]) async for a in client.stream("double", numbered(1000))]
        assert found == [(n, 2 * n) for n in range(1000)]

    play(scenario)


def test_answers_may_come_as_they_are_ready():
    """Unordered: what is answered first is given first, with the number of its input."""

    async def scenario(stage, client):
        stage["a"].delay_s = 1.0

        async def source():
            yield {"x": rows(0)}
            await until(lambda: stage["a"].messages)
            stage["a"].delay_s = 0.0
            yield {"x": rows(1)}

        unordered = [a.index async for a in client.stream("double", source(), ordered=False)]
        assert unordered == [1, 0]

    play(scenario)


def test_a_slow_reader_slows_the_inputs():
    """No more than the window is read ahead of what was taken."""

    async def scenario(_stage, client):
        read = 0

        def source():
            nonlocal read
            for n in range(100):
                read += 1
                yield {"x": rows(n)}

        async with contextlib.aclosing(client.stream("double", source(), window=10)) as answers:
            for taken in range(1, 20):
                await anext(answers)
                await asyncio.sleep(0.1)
                assert read <= taken + 10

    play(scenario)


def test_an_answer_does_not_wait_for_the_next_input():
    """The source pauses, as a sensor does: what was asked is given out meanwhile."""

    async def scenario(_stage, client):
        go_on = asyncio.Event()

        async def source():
            yield {"x": rows(1)}
            await go_on.wait()
            yield {"x": rows(2)}

        answers = client.stream("double", source())
        assert (await anext(answers))["y"][0, 0] == 2
        go_on.set()
        assert [a["y"][0, 0] async for a in answers] == [4]

    play(scenario)


def test_leaving_cancels_what_is_on_its_way():
    """The edge hears that nobody waits any more, and the source is read no further."""

    async def scenario(stage, client):
        stage["a"].silent = True
        answers = client.stream("double", numbered(1000), window=20)
        task = asyncio.get_running_loop().create_task(anext(answers))
        await until(lambda: len(stage["a"].asked_ids) == 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await answers.aclose()
        await until(lambda: sorted(stage["a"].cancelled) == sorted(stage["a"].asked_ids))
        assert client._core.waiting == 0

    play(scenario)


def test_the_first_error_ends_the_stream():
    """It is raised in its place, after the answers before it."""

    async def scenario(stage, client):
        stage["a"].trouble = lambda m: errors.InvalidTensor("not that one") if m.inputs[0].shape[1] == 3 else None
        inputs = [{"x": rows(1)}, {"x": rows(2)}, {"x": rows(3)[:, [0, 0, 0]]}, {"x": rows(4)}]
        answers = client.stream("double", inputs)
        assert [(await anext(answers))["y"][0, 0] for _ in range(2)] == [2, 4]
        with pytest.raises(errors.InvalidTensor, match="not that one"):
            await anext(answers)
        assert client._core.waiting == 0

    play(scenario)


def test_what_the_source_raises_is_raised():
    """After the answers to what it gave before."""

    async def scenario(_stage, client):
        async def source():
            yield {"x": rows(1)}
            raise OSError("the sensor broke")

        answers = client.stream("double", source())
        assert (await anext(answers))["y"][0, 0] == 2
        with pytest.raises(OSError, match="sensor broke"):
            await anext(answers)

    play(scenario)


def test_a_killed_edge_costs_no_answer_of_a_stream():
    """What it was asked is asked elsewhere; the order stays."""

    async def scenario(stage, client):
        stage["a"].delay_s = 0.02
        found = []
        async for answer in client.stream("double", numbered(400), window=50):
            found.append(answer["y"][0, 0])
            if len(found) == 100:
                stage.sim.crash("a")
        assert found == [2 * n for n in range(400)]

    play(scenario)


def test_a_window_of_nothing_is_refused():
    """It would wait for ever."""

    async def scenario(_stage, client):
        with pytest.raises(errors.CallerError, match="lets nothing through"):
            await anext(client.stream("double", numbered(1), window=0))

    play(scenario)


def test_a_window_gives_in_order_and_counts_what_was_not_taken():
    """Early answers wait for the ones before them; room comes back only by taking."""
    window = Window(2, ordered=True)
    first, second = window.ask(), window.ask()
    error = errors.NotFound("x")
    window.put(second, error)
    assert window.take() is None
    assert window.room == 0
    window.put(first, errors.Unavailable("y"))
    assert isinstance(window.take(), errors.Unavailable)
    assert window.room == 1
    assert window.take() is error
    assert not window.open
