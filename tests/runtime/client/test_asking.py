"""Requests are answered once, by whoever can."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from msrt import errors
from msrt.client.core import REPEAT_S
from msrt.world.network import Faults
from tests.runtime.client.edges import INFO_WITHOUT_LABELS, play, rows
from tests.runtime.hop.tree import identity, until


def test_an_answer_says_who_made_it():
    """Outputs by name, with version, variant and device."""

    async def scenario(_stage, client):
        answer = await client.infer("double", {"x": rows(1, 2)})
        np.testing.assert_array_equal(answer["y"], rows(2, 4))
        assert (answer.version, answer.variant, answer.device) == (7, "int8", "device-of-a")

    play(scenario)


def test_requests_of_one_turn_ride_together():
    """A thousand requests made at once travel in a few messages, and each gets its own rows."""

    async def scenario(stage, client):
        answers = await client.infer_many("double", [{"x": rows(*range(n, n + 1 + n % 3))} for n in range(1000)])
        for n, answer in enumerate(answers):
            np.testing.assert_array_equal(answer["y"], 2 * rows(*range(n, n + 1 + n % 3)))
        assert len(stage["a"].messages) <= 2

    play(scenario)


def test_only_what_fits_together_rides_together():
    """Other models, shapes and wanted outputs travel apart, and so does what is larger than a packet together."""

    async def counts(stage, client):
        large = np.zeros((60_000, 2), np.float32)
        await client.infer_many("double", [{"x": large}] * 3)
        assert sorted(len(m.ids) for m in stage["a"].messages) == [1, 2]

    play(counts)
    play(scenario_of_kinds)


async def scenario_of_kinds(stage, client):
    """Six kinds, one of them twice."""
    await asyncio.gather(
        client.infer("double", {"x": rows(1)}), client.infer("double", {"x": rows(2)}),
        client.infer("double@7", {"x": rows(3)}), client.infer("double", {"x": np.zeros((1, 3), np.float32)}),
        client.infer("double", {"x": rows(4)}, outputs=["y"]), client.infer("other", {"x": rows(5)}),
    )  # fmt: skip
    assert sorted(len(m.ids) for m in stage["a"].messages) == [1, 1, 1, 1, 2]


def test_what_no_packet_holds_is_said_at_once():
    """An input over the link's limit fails as what it is."""

    async def scenario(_stage, client):
        with pytest.raises(errors.FrameTooLarge):
            await client.infer("double", {"x": np.zeros((200_000, 2), np.float32)})

    play(scenario)


def test_lists_and_bare_arrays_are_made_what_the_model_takes():
    """Names and dtypes are asked of the edge, once."""

    async def scenario(_stage, client):
        for inputs in ([[1.0, 2.0]], np.array([[1, 2]]), {"x": [[1, 2]]}, np.array([[1.0, 2.0]])):
            np.testing.assert_array_equal((await client.infer("double", inputs))["y"], [[2.0, 4.0]])
        with pytest.raises(errors.InvalidTensor, match="no input 'z'"):
            await client.infer("double", {"z": [1]})
        with pytest.raises(errors.InvalidTensor, match="cannot be made FP32"):
            await client.infer("double", [["a", "b"]])
        with pytest.raises(errors.NotFound):
            await client.infer("nonsense", [[1.0]])

    play(scenario)


def test_a_killed_edge_costs_no_answer():
    """What it was asked is asked of the other one at once, under the same ids, and answered once."""

    async def scenario(stage, client):
        stage["a"].delay_s = 1.0
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(client.infer("double", {"x": rows(n)})) for n in range(50)]
        await until(lambda: len(stage["a"].asked_ids) == 50)
        asked = list(stage["a"].asked_ids)
        stage.sim.crash("a")
        answers = await asyncio.gather(*tasks)
        assert stage.sim.now < 1.0
        assert sorted(stage["b"].asked_ids) == sorted(asked)
        assert {answer.device for answer in answers} == {"device-of-b"}
        stage.sim.restart("a")
        await asyncio.sleep(3)
        assert (await client.infer("double", {"x": rows(1)})).device == "device-of-b"

    play(scenario)


@pytest.mark.parametrize("how", ["stop", "partition"])
def test_a_silent_edge_costs_its_lease(how):
    """Nobody is told; within two seconds another edge has answered."""

    async def scenario(stage, client):
        if how == "stop":
            stage.sim.stop("a")
        else:
            stage.sim.partition("a", "app")
        began = stage.sim.now
        assert (await client.infer("double", {"x": rows(1)})).device == "device-of-b"
        assert stage.sim.now - began < 2.1

    play(scenario, faults=Faults(notice=0.0))


def test_without_any_edge_requests_wait_until_their_deadline():
    """All edges down: the request waits; one that comes back answers it, else it fails as Disconnected in time."""

    async def scenario(stage, client):
        for name in ("a", "b"):
            stage.sim.crash(name)
        began = stage.sim.now
        with pytest.raises(errors.Disconnected):
            await client.infer("double", {"x": rows(1)}, deadline=1.0)
        assert stage.sim.now - began == pytest.approx(1.0, abs=0.15)
        task = asyncio.get_running_loop().create_task(client.infer("double", {"x": rows(1)}, deadline=20.0))
        await asyncio.sleep(2)
        stage.sim.restart("b")
        assert (await task).device == "device-of-b"

    play(scenario)


def test_a_deadline_is_kept():
    """An edge that never answers is DeadlineExceeded, on time."""

    async def scenario(stage, client):
        stage["a"].silent = stage["b"].silent = True
        began = stage.sim.now
        with pytest.raises(errors.DeadlineExceeded):
            await client.infer("double", {"x": rows(1)}, deadline=3.0)
        assert stage.sim.now - began == pytest.approx(3.0, abs=0.1)
        assert client._core.waiting == 0

    play(scenario)


def test_an_answer_that_was_lost_is_asked_for_again():
    """Without a word for a while the same edge is asked again, with the same id."""

    async def scenario(stage, client):
        stage["a"].silent = True
        task = asyncio.get_running_loop().create_task(client.infer("double", {"x": rows(1)}))
        await asyncio.sleep(REPEAT_S / 2)
        stage["a"].silent = False
        await task
        first, second = stage["a"].asked_ids
        assert first == second
        assert stage.sim.now < REPEAT_S + 1

    play(scenario)


def test_bad_weather_costs_no_answer():
    """Loss, doubling and overtaking: each request has its own answer."""

    async def scenario(stage, client):
        stage.sim.weather(Faults(loss=0.1, duplicate=0.1, reorder=0.1, jitter=0.01))

        async def one(n):
            await asyncio.sleep(n * 0.02)
            answer = await client.infer("double", {"x": rows(n)}, deadline=30.0)
            np.testing.assert_array_equal(answer["y"], rows(2 * n))

        await asyncio.gather(*(one(n) for n in range(200)))

    play(scenario)


@pytest.mark.parametrize(
    "error", [errors.Overloaded("full"), errors.Unavailable("no device"), errors.NotFound("what?")]
)
def test_who_cannot_answer_is_passed_by(error):
    """A full edge, one without a device, one that has not heard of the model yet: the other one is asked at once."""

    async def scenario(stage, client):
        stage["a"].trouble = lambda _message: error
        began = stage.sim.now
        assert (await client.infer("double", {"x": rows(1)})).device == "device-of-b"
        assert stage.sim.now - began < 0.1

    play(scenario)


def test_when_nobody_can_answer_they_are_asked_again():
    """With pauses that grow, until one can; else the request fails with what they said."""

    async def scenario(stage, client):
        for name in ("a", "b"):
            stage[name].trouble = lambda _message: errors.Unavailable("no device has it ready")
        task = asyncio.get_running_loop().create_task(client.infer("double", {"x": rows(1)}))
        await asyncio.sleep(3)
        assert len(stage["a"].asked_ids) < 15
        stage["b"].trouble = lambda _message: None
        assert (await task).device == "device-of-b"
        stage["b"].trouble = stage["a"].trouble
        with pytest.raises(errors.Unavailable, match="no device has it ready"):
            await client.infer("double", {"x": rows(1)}, deadline=1.0)

    play(scenario)


def test_what_is_wrong_with_a_request_is_not_asked_again():
    """InvalidTensor and the like come back at once."""

    async def scenario(stage, client):
        stage["a"].trouble = lambda _message: errors.InvalidTensor("x must be FP32")
        with pytest.raises(errors.InvalidTensor, match="must be FP32"):
            await client.infer("double", {"x": rows(1)})
        assert stage["b"].asked_ids == []

    play(scenario)


def test_a_model_with_fixed_rows_is_asked_one_by_one():
    """Requests that are wrong together and right alone are asked alone, from then on at once."""

    async def scenario(stage, client):
        stage["a"].trouble = lambda m: errors.InvalidTensor("one row only") if m.inputs[0].shape[0] > 1 else None
        answers = await client.infer_many("double", [{"x": rows(n)} for n in range(5)])
        assert [answer["y"][0, 0] for answer in answers] == [0, 2, 4, 6, 8]
        before = len(stage["a"].messages)
        await client.infer_many("double", [{"x": rows(n)} for n in range(5)])
        assert len(stage["a"].messages) == before + 5

    play(scenario)


def test_a_caller_that_leaves_is_told_to_the_edge():
    """A cancelled request is cancelled there, and its answer is nobody's."""

    async def scenario(stage, client):
        stage["a"].delay_s = 1.0
        task = asyncio.get_running_loop().create_task(client.infer("double", {"x": rows(1)}))
        await until(lambda: stage["a"].asked_ids)
        task.cancel()
        await until(lambda: stage["a"].cancelled == stage["a"].asked_ids)
        await asyncio.sleep(2)
        assert client._core.waiting == 0

    play(scenario)


def test_the_same_request_id_is_the_same_request():
    """Asking again under one's own id waits for the one answer."""

    async def scenario(stage, client):
        stage["a"].delay_s = 0.5
        first = client.infer("double", {"x": rows(3)}, request_id=42)
        second = client.infer("double", {"x": rows(3)}, request_id=42)
        one, two = await asyncio.gather(first, second)
        assert one is two
        assert stage["a"].asked_ids == [42]

    play(scenario)


def test_closing_fails_what_is_open():
    """Nobody waits on a closed client."""

    async def scenario(stage, client):
        stage["a"].silent = True
        task = asyncio.get_running_loop().create_task(client.infer("double", {"x": rows(1)}))
        await until(lambda: stage["a"].asked_ids)
        await client.close()
        with pytest.raises(errors.Disconnected, match="closed"):
            await task

    play(scenario)


def test_a_removed_identity_is_told_at_once():
    """When every edge has sent us away for good, requests do not wait for their deadline."""

    async def scenario(stage, client):
        for name in ("a", "b"):
            node = stage.sim.node(name)
            node.gate.revoked.add(identity("app").node)
            node.down.expel(identity("app").node, errors.Revoked("app was removed from the tree"))
        await asyncio.sleep(3)
        began = stage.sim.now
        with pytest.raises(errors.Revoked):
            await client.infer("double", {"x": rows(1)}, deadline=30.0)
        assert stage.sim.now - began < 1

    play(scenario)


def test_what_the_caller_asks_for_is_said():
    """Priority, version, wanted outputs and trace travel with the request; only equal ones ride together."""

    async def scenario(stage, client):
        await asyncio.gather(
            client.infer("double", {"x": rows(1)}, priority=1, version=7, outputs="y", trace="00-a-b-01"),
            client.infer("double", {"x": rows(1)}, priority=-1), client.infer("double", {"x": rows(1)}, priority=-1),
        )  # fmt: skip
        said = sorted((m.priority, m.version, m.outputs, m.trace, len(m.ids)) for m in stage["a"].messages)
        assert said == [(-1, 0, (), "", 2), (1, 7, ("y",), "00-a-b-01", 1)]
        with pytest.raises(errors.CallerError, match="1 is urgent"):
            await client.infer("double", {"x": rows(1)}, priority=5)
        with pytest.raises(errors.InvalidAddress, match="version 2"):
            await client.infer("double@1", {"x": rows(1)}, version=2)

    play(scenario)


def test_an_answer_says_how_long_it_took():
    """As the caller saw it, and what computing took on the device."""

    async def scenario(stage, client):
        stage["a"].delay_s = 0.5
        answer = await client.infer("double", {"x": rows(1)})
        assert 0.5 < answer.seconds < 0.6
        assert answer.compute_s == pytest.approx(5e-6)
        assert answer.request_id == stage["a"].asked_ids[0]

    play(scenario)


def test_cancelling_many_tells_the_edge_once():
    """All of an infer_many in one message; what others wait for goes on."""

    async def scenario(stage, client):
        stage["a"].delay_s = 1.0
        loop = asyncio.get_running_loop()
        other = loop.create_task(client.infer("double", {"x": rows(7)}, request_id=42))
        same = loop.create_task(client.infer("double", {"x": rows(7)}, request_id=42))
        many = loop.create_task(client.infer_many("double", [{"x": rows(n)} for n in range(100)]))
        await until(lambda: len(stage["a"].asked_ids) == 101)
        many.cancel()
        other.cancel()
        await until(lambda: len(stage["a"].cancelled) == 100)
        assert (await same)["y"][0, 0] == 14
        assert client._core.waiting == 0

    play(scenario)


def test_a_late_request_is_cancelled_at_the_edge():
    """When its deadline is over, nobody computes it any more."""

    async def scenario(stage, client):
        stage["a"].silent = True
        with pytest.raises(errors.DeadlineExceeded):
            await client.infer("double", {"x": rows(1)}, deadline=0.5)
        await until(lambda: stage["a"].cancelled == stage["a"].asked_ids)

    play(scenario)


def test_classes_have_the_names_of_the_model():
    """The likeliest first, as many as are wanted; without names their numbers."""

    async def scenario(stage, client):
        scores = np.array([[0.1, 0.7], [0.9, 0.2]], np.float32)
        found = await client.classify("double", {"x": scores}, top=1)
        assert [[(label.label, label.number) for label in row] for row in found] == [[("dog", 1)], [("cat", 0)]]
        assert found[0][0].score == pytest.approx(1.4)
        stage["a"].info = INFO_WITHOUT_LABELS
        client._models.clear()
        assert [label.label for label in (await client.classify("double", {"x": scores}))[1]] == ["0", "1"]

    play(scenario)
