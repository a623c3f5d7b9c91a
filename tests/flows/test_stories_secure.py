"""Secure aggregation in whole trees: the mean of exactly those who are in it, whoever drops out or dies, and when.

A failing seed is replayed by `MSRT_SEED=n pytest tests/flows/test_stories_secure.py`.
"""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from msrt.learning.secure_aggregation.fixed import Fixed, parts
from msrt.learning.secure_aggregation.server import Stage
from msrt.links.memory import MemoryListener
from msrt.world.faults import play, random_schedule
from msrt.world.network import Faults
from tests.flows.test_stories_rounds import checkpoints, mean, moved
from tests.flows.trainer import SIZE, SimulatedTrainer, known_update
from tests.flows.tree import grown, until

TREE = {"edge-n": 5, "edge-s": 4}
ALONE = {"edge-n": 5}
"""Nobody can go elsewhere."""
SECURE = {"clip": 100.0, "dropouts": 0.3}
"""Known updates are long: their elements are up to 15 / 16."""


async def started(tree, **config):
    """A job that masks its updates; its name."""
    await until(lambda: len(list(tree.cloud.fleet.living())) == len(tree.devices), what="the cloud sees everyone")
    settings = {"deadline_s": 30.0, "quorum": 0.5, "max_samples": 64, "secure": SECURE, **config}
    return await tree.train(**{key: value for key, value in settings.items() if value is not None})


async def ended(tree, job):
    """Its checkpoints, once it is finished; each moved the weights by the mean of those it names."""
    await until(lambda: tree.ended(job), 600, "the job ended")
    assert tree.job(job).ended.state == "finished", tree.job(job).ended
    facts = checkpoints(tree)
    for fact, way in zip(facts, moved(tree, facts), strict=True):
        wanted = mean([known_update("job", fact.round, node) for node in fact.included])
        assert np.allclose(way, wanted, atol=1e-4), f"round {fact.round}: not the mean of {len(fact.included)} nodes"
    return facts


def lasting(tree, seconds, first=1.0):
    """Training takes that long on all devices, so much longer on the first one of edge-n. A young edge waits three
    seconds for its devices before it puts them on a ring: six leave room for what happens in between.
    """
    for number, name in enumerate(tree.devices):
        takes = seconds * first if number == 0 else seconds
        tree.trainers[name] = SimulatedTrainer(lambda _node, _round, takes=takes: takes)


def nodes(tree, edge=""):
    return {tree.node_id(name) for name, home in tree.devices.items() if home == edge or not edge}


def opened(tree, edge="edge-n"):
    return tree[edge].training._open.get("job") if tree[edge] is not None else None


def stage(tree, edge="edge-n"):
    one = opened(tree, edge)
    return one.exchange._machine.stage if one is not None else None


def rows(tree):
    return tree.cloud.training.report("job")["rounds"]


def test_masked_rounds_move_the_weights_by_the_mean(seed):
    """Everybody takes part; loss and accuracy come out of the sums; devices forget what they trained."""

    async def story(tree):
        facts = await ended(tree, await started(tree, rounds=3))
        assert [set(fact.included) for fact in facts] == [nodes(tree)] * 3
        assert rows(tree)[0]["accuracy"] == pytest.approx(0.5, abs=1e-3)
        assert rows(tree)[0]["worst_decile"] is None
        assert rows(tree)[0]["clipped"] == 0
        await until(lambda: not any(tree[name].jobs.training._masking._plain for name in tree.devices))

    grown(story, seed, edges=TREE)


@pytest.mark.parametrize("when", ["announce", "collect"])
def test_a_device_that_dies_before_its_update_is_left_out(when, seed):
    """While keys are exchanged, or while it trains: the others' sum is exact, and it takes part again later."""

    async def story(tree):
        lasting(tree, 6.0)
        if when == "announce":
            tree.sim.stop("device-1")
        job = await started(tree, rounds=3, quorum=0.4)
        if when == "collect":
            await until(lambda: stage(tree) is Stage.COLLECT, 20, "keys are exchanged")
        tree.sim.crash("device-1")
        await until(lambda: tree.job(job).round >= 1, 60, "a round without it")
        tree.sim.restart("device-1")
        facts = await ended(tree, job)
        assert set(facts[0].included) == nodes(tree) - {tree.node_id("device-1")}
        assert set(facts[-1].included) == nodes(tree)

    grown(story, seed, edges=TREE)


def test_a_device_that_dies_after_its_update_is_in_the_sum(seed):
    """Its own mask comes back from the others' shares."""

    async def story(tree):
        lasting(tree, 6.0)
        tree.trainers["device-2"] = SimulatedTrainer(lambda _node, _round: 0.2)
        job = await started(tree, rounds=1, quorum=1.0)
        victim = tree.node_id("device-2")
        await until(lambda: opened(tree) and victim in opened(tree).round.added, 20, "its update is added")
        tree.sim.crash("device-2")
        facts = await ended(tree, job)
        assert set(facts[0].included) == nodes(tree)

    grown(story, seed, edges=TREE)


def test_a_region_below_the_threshold_says_so_and_begins_afresh(seed):
    """Three of five die while they train: no sum of the other two, for these would know each other's update."""

    async def story(tree):
        lasting(tree, 6.0)
        job = await started(tree, rounds=4, quorum=0.4)
        await until(lambda: stage(tree) is Stage.COLLECT, 20, "keys are exchanged")
        for name in ("device-1", "device-2", "device-3"):
            tree.sim.crash(name)
        await until(lambda: tree.job(job).round >= 1, 60, "a round of the other region")
        for name in ("device-1", "device-2", "device-3"):
            tree.sim.restart(name)
        facts = await ended(tree, job)
        assert set(facts[0].included) == nodes(tree, "edge-s")
        said = rows(tree)[0]["failed"]
        assert "2 of 5 devices sent their masked update" in said[tree.node_id("device-4")]
        assert set(facts[-1].included) == nodes(tree)

    grown(story, seed, edges=TREE)


def test_an_edge_killed_while_updates_come_begins_the_exchange_again(seed):
    """What devices trained is masked anew, with other keys; nothing is trained twice."""

    async def story(tree):
        lasting(tree, 1.0, first=4.0)
        job = await started(tree, rounds=2, quorum=1.0)
        await until(lambda: opened(tree) and len(opened(tree).round.added) >= 3, 30, "some updates are added")
        first = dict(opened(tree).exchange._machine.keys)
        tree.sim.crash("edge-n")
        await asyncio.sleep(0.5)
        tree.sim.restart("edge-n")
        await until(lambda: stage(tree) is Stage.COLLECT, 30, "a second exchange")
        second = opened(tree).exchange._machine.keys
        assert first.keys() == second.keys()
        assert all(second[node].mask != keys.mask for node, keys in first.items())
        facts = await ended(tree, job)
        assert [set(fact.included) for fact in facts] == [nodes(tree)] * 2
        assert all(len(one.trained) == 2 for one in tree.trainers.values())

    grown(story, seed, edges=ALONE)


def test_who_helped_to_unmask_a_sum_helps_with_no_other_of_that_round(seed):
    """An edge dies with the unmasked sum: its devices refuse a second one, until the cloud opens the round anew."""

    async def story(tree):
        job = await started(tree, rounds=2, quorum=0.8)
        await until(lambda: opened(tree) is not None, 30)
        one, dead = opened(tree), asyncio.Event()

        async def die(_action):
            dead.set()
            await asyncio.sleep(60)

        one.exchange._settle = die
        await dead.wait()
        tree.sim.crash("edge-n")
        await asyncio.sleep(0.5)
        tree.sim.restart("edge-n")
        facts = await ended(tree, job)
        assert [set(fact.included) for fact in facts] == [nodes(tree)] * 2
        log = tree.sim.log_bytes().decode()
        assert "it helped to unmask a sum of this round already" in log
        assert "round.abandoned" in log

    grown(story, seed, edges=ALONE)


def test_devices_of_a_dead_edge_go_on_elsewhere(seed):
    """Their updates were masked for it: this round goes on without them, the next with them at the other edge."""

    async def story(tree):
        lasting(tree, 6.0)
        job = await started(tree, rounds=4, quorum=0.4)
        await until(lambda: stage(tree) is Stage.COLLECT, 20, "keys are exchanged")
        tree.sim.crash("edge-n")
        facts = await ended(tree, job)
        assert nodes(tree, "edge-s") <= set(facts[0].included)
        assert set(facts[-1].included) == nodes(tree)

    grown(story, seed, edges=TREE)


def test_a_region_does_masked_rounds_of_its_own(seed):
    """Each step is an exchange of its own."""

    async def story(tree):
        job = await started(tree, rounds=2, pace={"steps": 2}, quorum=1.0)
        await until(lambda: tree.ended(job), 300, "the job ended")
        facts = checkpoints(tree)
        assert [set(fact.included) for fact in facts] == [nodes(tree)] * 2
        for fact, way in zip(facts, moved(tree, facts), strict=True):
            sums = []
            for edge in tree.edges:
                turns = [2 * fact.round - 1, 2 * fact.round]
                steps = [[known_update("job", turn, node) for node in nodes(tree, edge)] for turn in turns]
                heaviest = max(sum(samples for _, samples in parts) for parts in steps)
                sums.append((mean(steps[0]) + mean(steps[1]), heaviest))
            assert np.allclose(way, mean(sums), atol=2e-4)

    grown(story, seed, edges=TREE)


def test_over_lossy_links(seed):
    """A tenth of all packets lost or doubled: messages of the exchange are resent, sums stay exact."""

    async def story(tree):
        tree.sim.weather(Faults(loss=0.1, duplicate=0.1))
        facts = await ended(tree, await started(tree, rounds=3, quorum=0.5))
        assert len(facts) == 3

    grown(story, seed, edges=TREE)


def test_a_cloud_killed_in_a_round_gets_the_sums_again(seed):
    """Edges keep them until the round is closed; nobody counts twice."""

    async def story(tree):
        lasting(tree, 1.0)
        tree.trainers["device-6"] = SimulatedTrainer(lambda _node, _round: 5.0)
        job = await started(tree, rounds=2, quorum=1.0)
        await until(lambda: opened(tree) and "sum" in opened(tree).outbox, 30, "a sum is made")
        tree.sim.crash("cloud")
        await asyncio.sleep(1)
        tree.sim.restart("cloud")
        await until(lambda: tree.cloud is not None and tree.job(job) is not None)
        facts = await ended(tree, job)
        assert [set(fact.included) for fact in facts] == [nodes(tree)] * 2

    grown(story, seed, edges=TREE)


def heard_by(monkeypatch, name):
    """Every byte that arrives at a node's own listeners, as it arrives."""
    heard, real = bytearray(), MemoryListener.received

    def received(listener, wire, frames):
        if listener.process.name == name:
            for frame in frames:
                heard.extend(frame)
        real(listener, wire, frames)

    monkeypatch.setattr(MemoryListener, "received", received)
    return heard


def shapes(job, round_, node):
    """A device's update as it would travel in the open, at any weight: float32, and whole numbers of its exchange."""
    delta, samples = known_update(job, round_, node)
    fixed = Fixed(SIZE, 5, 64, SECURE["clip"])
    whole = parts(fixed.encode(delta, samples, {}, 0), 32)[1]
    at = int(np.flatnonzero(whole)[0])  # zeros are everywhere
    weighed = (delta * samples).astype(np.float32)
    return [delta.tobytes()[:32], weighed.tobytes()[:32], whole[at : at + 2].tobytes()]


@pytest.mark.parametrize("masked", [True, False])
def test_an_edge_never_hears_a_single_update(masked, seed, monkeypatch):
    """Of all bytes that came to it none are a device's update, samples or metrics, with drop-outs and without; of the
    same job unmasked they are, so the looking finds what there is.
    """
    heard = heard_by(monkeypatch, "edge-n")

    async def story(tree):
        job = await started(tree, rounds=2, quorum=1.0, **({} if masked else {"secure": None}))
        facts = await ended(tree, job)
        found = [
            shape in heard
            for fact in facts for node in nodes(tree) for shape in shapes("job", fact.round, node)[: 3 if masked else 1]
        ]  # fmt: skip
        assert not any(found) if masked else all(found)
        assert (b"accuracy" in heard) is not masked

    grown(story, seed, edges=ALONE)


def test_under_a_storm_every_round_is_the_mean_of_whom_it_names(seed):
    """Processes die, stop and are cut off at random for a while, masters among them; the job ends all the same."""

    async def story(tree):
        lasting(tree, 0.3, first=4.0)
        job = await started(tree, rounds=8, quorum=0.3, deadline_s=10.0)
        await play(tree.sim, random_schedule(tree.sim.rng, tree.names, 12.0, mortal=tree.names))
        await until(lambda: tree.cloud is not None and tree.job(job) is not None, 60)
        await ended(tree, job)

    grown(story, seed, edges={"edge-n": 4, "edge-s": 4})
