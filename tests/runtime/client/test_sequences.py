"""Conversations with a model that keeps state: they stay where they are, and never begin again in silence."""

from __future__ import annotations

import asyncio

import pytest

from msrt import errors
from msrt.client.core import REPEAT_S
from tests.runtime.client.edges import play, rows
from tests.runtime.hop.tree import until

X = {"x": rows(1)}


def steps(handler):
    """What an edge was asked: sequence, begins, ends."""
    return [(m.sequence, m.sequence_start, m.sequence_end) for m in handler.messages]


def test_steps_say_where_they_belong():
    """Each sequence has an id of its own; its first step begins it, leaving the block ends it."""

    async def scenario(stage, client):
        async with client.sequence("double") as one, client.sequence("double") as two:
            assert one.id != two.id
            await one.infer(X)
            await one.infer(X)
            await two.infer(X)
        a, b = one.id, two.id
        assert steps(stage["a"]) == [
            (a, True, False), (a, False, False), (b, True, False), (b, False, True), (a, False, True)
        ]  # fmt: skip

    play(scenario)


def test_the_last_step_may_say_so_itself():
    """Then nothing more is said, and nothing more can be asked."""

    async def scenario(stage, client):
        async with client.sequence("double") as sequence:
            await sequence.infer(X)
            await sequence.infer(X, end=True)
            with pytest.raises(errors.CallerError, match="has ended"):
                await sequence.infer(X)
        assert [end for _, _, end in steps(stage["a"])] == [False, True]

    play(scenario)


def test_steps_asked_at_once_are_taken_one_after_the_other():
    """In the order in which they were asked, and never in one message."""

    async def scenario(stage, client):
        stage["a"].delay_s = 0.05
        async with client.sequence("double") as sequence:
            answers = await asyncio.gather(*(sequence.infer({"x": rows(n)}) for n in range(5)))
        assert [answer["y"][0, 0] for answer in answers] == [0, 2, 4, 6, 8]
        assert all(len(message.ids) == 1 for message in stage["a"].messages)
        assert [start for _, start, _ in steps(stage["a"])] == [True] + [False] * 5

    play(scenario)


def test_a_sequence_stays_when_its_client_moves():
    """Another edge is asked from now on, but not for this sequence."""

    async def scenario(stage, client):
        async with client.sequence("double") as sequence:
            await sequence.infer(X)
            client._core.current = client._core.fronts[1]
            assert (await client.infer("double", X)).device == "device-of-b"
            assert (await sequence.infer(X)).device == "device-of-a"

    play(scenario)


@pytest.mark.parametrize("idle", [False, True], ids=["in a step", "between steps"])
def test_a_dead_edge_takes_its_sequences_along(idle):
    """SequenceLost, at once and from then on; other requests go elsewhere, and nobody begins the sequence again."""

    async def scenario(stage, client):
        async with client.sequence("double") as sequence:
            await sequence.infer(X)
            stage["a"].silent = not idle
            step = asyncio.get_running_loop().create_task(asyncio.sleep(0) if idle else sequence.infer(X))
            if not idle:
                await until(lambda: len(stage["a"].messages) == 2)
            stage.sim.crash("a")
            if idle:
                await until(lambda: not client._core.fronts[0].live)
                step = asyncio.get_running_loop().create_task(sequence.infer(X))
            with pytest.raises(errors.SequenceLost, match="begin it again"):
                await step
            with pytest.raises(errors.SequenceLost):
                await sequence.infer(X)
            assert sequence.lost is not None
            assert (await client.infer("double", X)).device == "device-of-b"
        assert [m.sequence for m in stage["b"].messages] == [""]

    play(scenario)


def test_what_has_not_begun_may_begin_elsewhere():
    """The first step has no state to lose: an edge that dies before it answered is passed by."""

    async def scenario(stage, client):
        stage["a"].silent = True
        async with client.sequence("double") as sequence:
            step = asyncio.get_running_loop().create_task(sequence.infer(X))
            await until(lambda: stage["a"].messages)
            stage.sim.crash("a")
            assert (await step).device == "device-of-b"
            assert (await sequence.infer(X)).device == "device-of-b"

    play(scenario)


def test_the_edge_may_say_that_it_is_lost():
    """Its device died: every later step says the same without asking."""

    async def scenario(stage, client):
        async with client.sequence("double") as sequence:
            await sequence.infer(X)
            stage["a"].trouble = lambda _message: errors.SequenceLost("its worker went away")
            with pytest.raises(errors.SequenceLost, match="worker went away"):
                await sequence.infer(X)
            asked = len(stage["a"].messages)
            with pytest.raises(errors.SequenceLost, match="worker went away"):
                await sequence.infer(X)
            assert len(stage["a"].messages) == asked
        assert len(stage["a"].messages) == asked

    play(scenario)


@pytest.mark.parametrize("error", [errors.InvalidTensor("x is wrong"), errors.RateLimited("not so fast")])
def test_a_refused_step_leaves_the_sequence_as_it_was(error):
    """What is wrong with it is said; the next step goes on."""

    async def scenario(stage, client):
        async with client.sequence("double") as sequence:
            await sequence.infer(X)
            stage["a"].trouble = lambda _message: error
            with pytest.raises(type(error)):
                await sequence.infer(X, deadline=0.3)
            stage["a"].trouble = lambda _message: None
            assert (await sequence.infer(X)).device == "device-of-a"
            assert sequence.lost is None

    play(scenario)


def test_a_full_edge_is_asked_again_for_the_same_step():
    """Overloaded: it took nothing, so the step may wait there, and goes nowhere else."""

    async def scenario(stage, client):
        async with client.sequence("double") as sequence:
            await sequence.infer(X)
            stage["a"].trouble = lambda _message: errors.Overloaded("full")
            step = asyncio.get_running_loop().create_task(sequence.infer(X))
            await asyncio.sleep(0.3)
            stage["a"].trouble = lambda _message: None
            assert (await step).device == "device-of-a"
        assert not stage["b"].messages

    play(scenario)


@pytest.mark.parametrize("how", ["late", "cancelled", "failed"])
def test_a_step_of_which_nobody_knows_ends_the_sequence(how):
    """No answer in time, a cancelled call, a device that failed: it may have been taken. It is not asked twice."""

    async def scenario(stage, client):
        async with client.sequence("double") as sequence:
            await sequence.infer(X)
            if how == "failed":
                stage["a"].trouble = lambda _message: errors.Unavailable("the worker could not answer")
            else:
                stage["a"].silent = True
            step = asyncio.get_running_loop().create_task(sequence.infer(X, deadline=REPEAT_S * 2))
            await until(lambda: len(stage["a"].messages) == 2)
            if how == "cancelled":
                step.cancel()
            with pytest.raises((errors.DeadlineExceeded, errors.Unavailable, asyncio.CancelledError)):
                await step
            assert len(stage["a"].messages) == 2
            with pytest.raises(errors.SequenceLost):
                await sequence.infer(X)

    play(scenario)


def test_an_edge_with_a_sequence_is_kept():
    """However far away it is: dropping its connection would end the sequence."""

    async def scenario(_stage, client):
        async with client.sequence("double") as sequence:
            await sequence.infer(X)
            front = client._core.fronts[0]
            assert not client._core.idle(front)
        assert client._core.idle(front)

    play(scenario)


def test_an_edge_that_cannot_begin_it_is_passed_by():
    """The device that was to keep it died under the first step: it says that the sequence is lost, but nothing was."""

    async def scenario(stage, client):
        stage["a"].trouble = lambda _message: errors.SequenceLost("the worker that kept the sequence went away")
        async with client.sequence("double") as sequence:
            assert (await sequence.infer(X)).device == "device-of-b"
            assert sequence.lost is None

    play(scenario)
