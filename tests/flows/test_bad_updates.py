"""A device that sends what no honest trainer sends: it is refused by name, and the round is the mean of the others."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest

from msrt.learning.vector import load
from msrt.training.pipe import Trained
from tests.flows import invariants
from tests.flows.trainer import SIZE, SimulatedTrainer
from tests.flows.tree import grown, until

BAD = "device-1"
ROUNDS = 3


class LyingTrainer(SimulatedTrainer):
    """Trains as the others do, and sends what `lie` makes of it from round `since` on."""

    def __init__(self, lie, since=1):
        super().__init__(lambda _node, _round: 0.4)
        self.lie, self.since, self.told = lie, since, 0

    async def train(self, node, round_, weights, encoding, within, *more):
        done = await super().train(node, round_, weights, encoding, within, *more)
        if round_ < self.since:
            return done
        self.told += 1
        return self.lie(done)


def of(vector):
    return np.asarray(vector, "<f4").tobytes()


def one_is(value):
    """The honest update with one odd element."""

    def lie(done):
        flat = np.frombuffer(done.payload, "<f4").copy()
        flat[SIZE // 2] = value
        return msgspec.structs.replace(done, payload=of(flat))

    return lie


def times(factor):
    def lie(done):
        return msgspec.structs.replace(done, payload=of(np.frombuffer(done.payload, "<f4") * np.float32(factor)))

    return lie


def int8(scale):
    """An int8 payload under that scale."""

    def lie(done):
        payload = of([scale]) + np.full(SIZE, 127, np.int8).tobytes()
        return msgspec.structs.replace(done, encoding="int8", payload=payload)

    return lie


def counts(samples):
    return lambda done: msgspec.structs.replace(done, samples=samples)


LIES = {
    "NaN": (one_is(np.nan), "NaN, infinity or numbers too large"),
    "infinity": (one_is(np.inf), "NaN, infinity or numbers too large"),
    "finite but too large to square": (times(1e38), "NaN, infinity or numbers too large"),
    "int8 where float32 was agreed": (int8(1.0), "agreed was fp32"),
    "a million times": (times(1e6), "the limit is"),
    "a thousand times": (times(1e3), "the limit is"),
    "a short one": (lambda done: msgspec.structs.replace(done, payload=done.payload[:-4]), "expected 256"),
    "a long one": (
        lambda done: msgspec.structs.replace(done, payload=bytes(done.payload) + b"\0" * 4),
        "expected at most 256",
    ),
    "ten million bytes": (lambda done: msgspec.structs.replace(done, payload=bytes(10**7)), "expected at most 256"),
    "nothing": (lambda done: msgspec.structs.replace(done, payload=b""), "of 0 bytes"),
    "half an element": (lambda done: msgspec.structs.replace(done, payload=done.payload[:-2]), "expected 256"),
    "another size": (lambda done: Trained(done.samples, SIZE + 1, "fp32", {}, done.payload), "the model has 64"),
    "another encoding": (lambda done: msgspec.structs.replace(done, encoding="zip"), "agreed was fp32"),
    "no samples": (counts(0), "counts samples wrongly"),
    "fewer than no samples": (counts(-5), "counts samples wrongly"),
    "more samples than there are": (counts(1 << 50), "counts samples wrongly"),
}


async def train(tree, lie, since=1, **config):
    """Run a job to its end with one liar in it; the facts of its rounds."""
    liar = tree.trainers[BAD] = LyingTrainer(lie, since)
    await until(lambda: len(list(tree.cloud.fleet.living())) == len(tree.devices), what="the cloud sees everyone")
    job = await tree.train(rounds=ROUNDS, **{"deadline_s": 20.0, "quorum": 0.5, **config})
    await until(lambda: tree.ended(job), 120, "the job ended")
    assert tree.job(job).ended.state == "finished", tree.job(job).ended
    assert liar.told
    return [fact for fact in invariants.entries(tree) if type(fact).__name__ == "JobAdvanced"]


def check(tree, facts, since=1, fault="", *, exact=True):
    """From round `since` on all but the liar are in; its fault is in the report; the weights are right."""
    assert [fact.round for fact in facts] == [*range(1, ROUNDS + 1)]
    liar, everybody = tree.node_id(BAD), {tree.node_id(name) for name in tree.devices}
    for fact in facts:
        assert set(fact.included) == everybody - ({liar} if fact.round >= since else set())
    for row in tree.cloud.training.report("job")["rounds"]:
        assert list(row["failed"]) == ([liar] if row["round"] >= since else [])
        assert all(fault in why for why in row["failed"].values()), row["failed"]
    weights = load(tree.cloud.artifacts.blobs.read(facts[-1].weights))[1]
    assert np.isfinite(weights).all()
    assert float(np.abs(weights).max()) <= ROUNDS * 15 / 16
    if exact:
        invariants.check_training(tree)


@pytest.mark.parametrize("kind", LIES)
def test_a_bad_update_is_refused_by_name_and_the_round_goes_on(kind):
    """The cloud's report names the node and the fault; the weights move by the exact mean of all others."""
    lie, fault = LIES[kind]

    async def story(tree):
        facts = await train(tree, lie)
        check(tree, facts, fault=fault)
        assert all(tree[name] is not None for name in tree.names)

    grown(story, edges={"edge-n": 3, "edge-s": 2})


@pytest.mark.parametrize("scale", [np.nan, np.inf], ids=["NaN", "infinite"])
def test_a_bad_scale_is_refused_like_a_bad_element(scale):
    """Where int8 was agreed: the codes are fine, what they stand for is not."""

    async def story(tree):
        facts = await train(tree, int8(scale), compression="int8")
        check(tree, facts, fault="NaN, infinity or numbers too large", exact=False)

    grown(story, edges={"edge-n": 3, "edge-s": 2})


def test_a_device_that_goes_wrong_after_honest_rounds_is_refused_from_then_on():
    """What it sent before stays counted."""

    async def story(tree):
        facts = await train(tree, times(100), since=2)
        check(tree, facts, since=2, fault="an update of norm")

    grown(story, edges={"edge-n": 3, "edge-s": 2})


def test_a_liar_that_becomes_honest_is_counted_again():
    """It is refused round by round, not for ever."""

    async def story(tree):
        first = iter([True])
        facts = await train(tree, lambda done: one_is(np.nan)(done) if next(first, False) else done)
        liar = tree.node_id(BAD)
        assert [liar in fact.included for fact in facts] == [False, True, True]
        invariants.check_training(tree)

    grown(story, edges={"edge-n": 3, "edge-s": 2})


def test_a_region_of_liars_alone_stops_nobody():
    """The only device of a region lies: the other region's sum is the round."""

    async def story(tree):
        facts = await train(tree, one_is(np.nan))
        check(tree, facts, fault="NaN")

    grown(story, edges={"edge-n": 1, "edge-s": 3})


def test_a_job_of_liars_alone_fails_and_says_why():
    """No round counts, the job ends by itself, and the tree trains the next one."""

    async def story(tree):
        for name in tree.devices:
            tree.trainers[name] = LyingTrainer(one_is(np.inf))
        job = await tree.train(rounds=1, deadline_s=5.0)
        await until(lambda: tree.ended(job), 120, "the job ended")
        ended = tree.job(job).ended
        assert ended.state == "failed"
        assert "0 of 2 nodes reported" in ended.reason
        assert tree.job(job).round == 0
        for trainer in tree.trainers.values():
            trainer.lie = lambda done: done
        again = await tree.train(name="again", rounds=1)
        await until(lambda: tree.ended(again), 60, "the next job ended")
        assert tree.job(again).ended.state == "finished"

    grown(story, edges={"edge-n": 2})


def test_a_liar_holds_nobody_up():
    """All others have reported and one is refused: the round ends at once, not at its deadline."""

    async def story(tree):
        began = asyncio.get_running_loop().time()
        facts = await train(tree, one_is(np.nan), deadline_s=600.0, quorum=0.8)
        check(tree, facts, fault="NaN")
        assert asyncio.get_running_loop().time() - began < 30

    grown(story, edges={"edge-n": 3, "edge-s": 2})
