"""Whole trees whose devices keep states, or hold more models than they have memory for."""

from __future__ import annotations

import asyncio

import numpy as np

from msrt.inference.budget import Budget
from msrt.protocol.messages import Infer, TensorSpec
from tests.cloud.test_states import renamed
from tests.flows.client import Asked
from tests.flows.test_stories_policies import ask, computed, rolled, said
from tests.flows.tree import grown, until

SUMS = renamed("state", "stateN", ("n", 4))
"""Answers the sum of all rows so far."""


class Talk:
    """One sequence of the client's."""

    def __init__(self, tree, name):
        self.client, self.name = tree.sim.node("client").handler, name

    async def step(self, value, *, start=False, end=False):
        """The sum, or the code of what went wrong, and who computed it."""
        client = self.client
        ident = len(client.asked) + 1
        message = Infer(
            (ident,), (1,), "sums", (TensorSpec("x", "FP32", (1, 4)),), deadline_ms=5000,
            sequence=self.name, sequence_start=start, sequence_end=end,
        )  # fmt: skip
        frame = np.full(4, value, np.float32).tobytes()
        one = client.asked[ident] = Asked(message, (frame,), client.world.now() + 5)
        client._send(one)
        await asyncio.wait_for(one.settled, 8)
        if one.failures:
            return one.failures[0].code, ""
        answer, found = one.answers[0]
        return float(np.frombuffer(found, np.float32)[0]), answer.device


async def pushed(tree):
    """The stateful model, rolled out to all."""
    digest = await tree.upload(SUMS)
    version = (await tree.insist("model.push", name="sums", file=digest))["version"]
    await tree.insist("model.rollout", model="sums", version=version)
    await until(lambda: tree.ready("sums", version), what="sums is ready")
    edge = tree["edge-n"]  # hears of it a moment later: a sequence that begins before has no home
    await until(lambda: edge.fleet.ready_somewhere("sums", version), what="its edge has heard")
    return version


def test_a_sequence_lives_on_one_device_and_dies_with_it(seed):
    """Steps add up wherever it began; with the device gone, and also when it is back, the typed error; begun again it
    starts from zeros. Others on other devices never notice."""

    async def story(tree):
        await pushed(tree)
        talks = [Talk(tree, f"s{number}") for number in range(6)]
        homes = {}
        for talk in talks:
            found, homes[talk.name] = await talk.step(1, start=True)
            assert found == 1
        for value in (2, 3):
            for talk in talks:
                found, device = await talk.step(value)
                assert (found, device) == ({2: 3, 3: 6}[value], homes[talk.name])
        victim = homes["s0"]
        tree.sim.crash(victim)
        for talk in talks:
            found, _ = await talk.step(4)
            lost = homes[talk.name] == victim
            assert found == "sequence_lost" if lost else found == 10, (talk.name, homes)
        tree.sim.restart(victim)
        await until(lambda: tree[victim] is not None and tree.ready("sums", 1, [victim]), what="it is back")
        assert (await talks[0].step(5))[0] == "sequence_lost"
        assert (await talks[0].step(5, start=True))[0] == 5
        assert (await talks[0].step(5, end=True))[0] == 10
        assert (await talks[0].step(5))[0] == "sequence_lost"

    grown(story, seed, edges={"edge-n": 3}, sources=0)


def test_an_update_never_hands_a_sequence_to_the_new_version(seed):
    """It ends where it began, and the old version leaves after it; what begins later begins on the new one."""

    async def story(tree):
        await pushed(tree)
        talk = Talk(tree, "old")
        assert (await talk.step(1, start=True))[0] == 1
        second = await pushed(tree)
        late = Talk(tree, "new")
        assert (await late.step(7, start=True))[0] == 7
        assert (await talk.step(1))[0] == 2
        assert (await late.step(1))[0] == 8
        versions = {slot.placement.version for name in tree.devices for slot in tree[name].slots.held()}
        assert versions == {1, second}
        assert (await talk.step(1, end=True))[0] == 3

        def alone():
            held = [slot.placement.version for name in tree.devices for slot in tree[name].slots.held()]
            return set(held) == {second}

        await until(alone, what="the old version left")

    grown(story, seed, edges={"edge-n": 2}, sources=0)


MODELS = ("a", "b", "c", "d")
ROOM = 600_000
"""Two of the four, at some 262 kB each."""


def test_more_models_than_memory_are_all_answered_and_the_warm_ones_first(seed):
    """Four models on devices with room for two: no request fails, no device goes over its budget, and once a model is
    warm somewhere it is asked there: nobody else loads it."""

    async def story(tree):
        for number, name in enumerate(MODELS, 1):
            await rolled(tree, number, name)
            await until(lambda name=name: tree.ready(name, 1), what=f"{name} is ready")
        budget = Budget(ROOM)
        row = [1, 2, 3, 4]
        for _ in range(10):
            for number, name in enumerate(MODELS, 1):
                (one,) = await ask(tree, row, model=name)
                _, found = said(one)
                assert np.allclose(found, computed(number, row), atol=1e-4)
                assert all(budget.used(tree[device].slots) <= ROOM for device in tree.devices)
        await asyncio.sleep(5)
        warm = {
            name: [d for d in tree.devices if not tree[d].slots.serving(name).cold] for name in MODELS
        }  # fmt: skip
        favourite = next(name for name in MODELS if len(warm[name]) < len(tree.devices))
        before = {d: tree[d].slots.serving(favourite).requests for d in tree.devices}
        await ask(tree, *[[1, 2, 3, n] for n in range(30)], model=favourite)
        asked = {d for d in tree.devices if tree[d].slots.serving(favourite).requests > before[d]}
        assert asked <= set(warm[favourite]) if warm[favourite] else len(asked) == 1

    grown(story, seed, edges={"edge-n": 3}, sources=0, device_config={"model_memory": ROOM})
