"""A device's part in a round: trained once, kept until it is counted, stamped for ever with its first parent."""

from __future__ import annotations

import asyncio

import pytest

from msrt.errors import JobFailed
from msrt.protocol.messages import Load, RoundClosed, RoundOpen
from msrt.training.bundle import pack
from msrt.trust.identity import Purpose
from tests.device.rig import digest, simulate, until
from tests.flows.trainer import SimulatedTrainer, known_update
from tests.runtime.hop.tree import CLOUD, identity

ME = identity("d").node


class Trainers:
    """Makes this device's trainers, and remembers them."""

    def __init__(self, seconds=0.4, kind=SimulatedTrainer):
        self.seconds, self.kind, self.made = seconds, kind, []

    def __call__(self, _job):
        self.made.append(self.kind(lambda _node, _round: self.seconds))
        return self.made[-1]

    @property
    def rounds(self):
        return [round_ for one in self.made for _, round_ in one.trained]


@pytest.fixture
def bundle(tmp_path):
    (tmp_path / "job.toml").write_text('name = "job"\ntask = "none:Nothing"\n')
    return pack(tmp_path).data


class Job:
    """Rounds of one job, opened by the edge "p"."""

    def __init__(self, rig, bundle):
        self.rig, self.bundle = rig, bundle

    async def open(self, number, edge=None, signature=None, along=False, **more):
        edge = edge or self.rig.edge
        for data in (self.bundle, await SimulatedTrainer().initial(1)):
            weights = await edge.artifacts.put_bytes(data)
        signature = CLOUD.sign(digest(self.bundle).encode(), Purpose.BUNDLE) if signature is None else signature
        message = RoundOpen("job", number, digest(self.bundle), signature, weights, 30.0, {ME: 0}, 1, "fp32", **more)
        edge.peer.send(message, (await edge.artifacts.read(weights),) if along else ())

    def updates(self, edge="p"):
        """(round, first parent's node, error) of the updates that came whole."""
        node = self.rig.sim.node(edge)
        return [
            (meta["round"], meta["first_parent"].partition("/")[0], meta.get("error", ""))
            for meta, sink in node.updates
            if sink.whole
        ]


P, Q = identity("p").node, identity("q").node


def test_a_round_is_trained_and_its_update_sent(bundle):
    """With its samples and metrics, stamped with the edge that opened it."""
    trainers = Trainers()

    async def scenario(rig):
        job = Job(rig, bundle)
        await job.open(1)
        await until(job.updates)
        meta, sink = rig.edge.updates[0]
        assert job.updates() == [(1, P, "")]
        assert meta["nodes"] == {ME: known_update("job", 1, ME)[1]}
        assert meta["metrics"]["update_bytes"] == len(sink.data)

    simulate(scenario, trainer=trainers)


def test_weights_that_came_along_are_not_fetched(bundle):
    """They lie on no disk of the device."""
    trainers = Trainers()

    async def scenario(rig):
        job = Job(rig, bundle)
        await job.open(1, along=True)
        await until(job.updates)
        assert rig.device.artifacts.digests() == [digest(bundle)]

    simulate(scenario, trainer=trainers)


def test_a_round_announced_again_is_trained_once(bundle):
    """While it trains the word changes nothing; after that the same update goes up again."""
    trainers = Trainers()

    async def scenario(rig):
        job = Job(rig, bundle)
        await job.open(1)
        await job.open(1)
        await until(job.updates)
        await job.open(1)
        await until(lambda: len(job.updates()) == 2)
        assert trainers.rounds == [1]
        assert rig.edge.updates[0][1].data == rig.edge.updates[1][1].data

    simulate(scenario, trainer=trainers)


def test_an_update_survives_a_reboot_until_it_is_counted(bundle):
    """The same bytes with the same stamp go up again, nothing is trained twice; once counted it is forgotten."""
    trainers = Trainers()

    async def reborn(rig):
        rig.sim.crash("d")
        rig.sim.restart("d")
        await rig.there()

    async def scenario(rig):
        job = Job(rig, bundle)
        await job.open(1)
        await until(job.updates)
        await reborn(rig)
        await until(lambda: len(job.updates()) == 2)
        (first, one), (second, two) = rig.edge.updates
        assert (first, one.data) == (second, two.data)
        assert trainers.rounds == [1]
        rig.edge.peer.send(RoundClosed("job", 1, (ME,)))
        await asyncio.sleep(1)
        await reborn(rig)
        await asyncio.sleep(5)
        assert len(job.updates()) == 2

    simulate(scenario, trainer=trainers)


def test_a_trainer_hears_which_round_was_counted_last(bundle):
    """What it kept of a later one is not in the model; a reboot forgets nothing, the end of the job all of it."""
    trainers = Trainers()

    async def scenario(rig):
        job = Job(rig, bundle)
        for number, counted in ((1, True), (2, False), (3, True), (4, False)):
            await job.open(number)
            await until(lambda due=number: due in [round_ for round_, _, _ in job.updates()])
            rig.edge.peer.send(RoundClosed("job", number, (ME,) if counted else ()))
            await asyncio.sleep(1)
            if number == 3:
                rig.sim.crash("d")
                rig.sim.restart("d")
                await rig.there()
        assert [asked.counted for one in trainers.made for asked in one.asked] == [0, 1, 1, 3]
        rig.edge.peer.send(RoundClosed("job", 4, (), "finished"))
        await asyncio.sleep(1)
        await job.open(5)
        await until(lambda: 5 in [round_ for round_, _, _ in job.updates()])
        assert trainers.made[-1].asked[-1].counted == 0

    simulate(scenario, trainer=trainers)


def test_an_update_that_a_power_failure_took_is_made_again(bundle, monkeypatch):
    """Large ones are not synced. The same bytes with the first stamp: the edge that had it may have added it."""
    monkeypatch.setattr("msrt_device.updates.INLINE", 0)
    trainers = Trainers()

    async def scenario(rig):
        job = Job(rig, bundle)
        await job.open(1)
        await until(job.updates)
        rig.sim.crash("d")
        rig.sim.restart("d")
        await rig.there()
        await job.open(1)
        await until(lambda: len(job.updates()) == 2)
        (first, one), (second, two) = rig.edge.updates
        assert (first, one.data) == (second, two.data)
        assert trainers.rounds == [1, 1]

    simulate(scenario, trainer=trainers)


def test_an_update_goes_to_the_next_edge_with_its_first_stamp(bundle):
    """Training goes on while no edge is there; the stamp says who alone may sum it."""
    trainers = Trainers(seconds=3.0)

    async def scenario(rig):
        job = Job(rig, bundle)
        await job.open(1)
        await until(lambda: rig.device.jobs.working)
        await asyncio.sleep(0.5)
        rig.sim.crash("p")
        await until(lambda: rig.joined("q"))
        await until(lambda: job.updates("q"))
        assert job.updates("q") == [(1, P, "")]
        assert trainers.rounds == [1]

    simulate(scenario, trainer=trainers, parents=("p", "q"))


def test_the_next_round_ends_the_one_that_still_trains(bundle):
    """A slow device does not fall behind for ever."""
    trainers = Trainers(seconds=5.0)

    async def scenario(rig):
        job = Job(rig, bundle)
        await job.open(1)
        await asyncio.sleep(1)
        await job.open(2)
        await until(job.updates)
        assert [round_ for round_, _, _ in job.updates()] == [2]
        assert trainers.rounds == [2]

    simulate(scenario, trainer=trainers)


def test_a_closed_round_is_not_trained_to_its_end(bundle):
    """Its update would be counted by nobody; an ended job's process ends too."""
    trainers = Trainers(seconds=5.0)

    async def scenario(rig):
        job = Job(rig, bundle)
        await job.open(1)
        await until(lambda: rig.device.jobs.working)
        rig.edge.peer.send(RoundClosed("job", 1, (), "stopped"))
        await until(lambda: not rig.device.jobs.working)
        await asyncio.sleep(10)
        assert job.updates() == []
        assert trainers.made[0].config is None

    simulate(scenario, trainer=trainers)


def test_a_bundle_that_the_cloud_did_not_sign_is_not_run(bundle):
    """The refusal goes up as an update with an error; no process is started for it."""
    trainers = Trainers()

    async def scenario(rig):
        job = Job(rig, bundle)
        await job.open(1, signature=b"x" * 64)
        await until(job.updates)
        assert "bad_signature" in job.updates()[0][2]
        assert trainers.made == []

    simulate(scenario, trainer=trainers)


class Failing(SimulatedTrainer):
    """Fails in round 1."""

    async def train(self, node, round_, *more):
        if round_ == 1:
            raise JobFailed("out of memory")
        return await super().train(node, round_, *more)


def test_a_node_that_cannot_train_says_so_and_tries_the_next_round(bundle):
    """The cloud hears why instead of waiting; the next round gets a new process."""
    trainers = Trainers(kind=Failing)

    async def scenario(rig):
        job = Job(rig, bundle)
        await job.open(1)
        await until(job.updates)
        assert job.updates() == [(1, P, "job_failed: out of memory")]
        await job.open(2)
        await until(lambda: len(job.updates()) == 2)
        assert job.updates()[1] == (2, P, "")
        assert len(trainers.made) == 2

    simulate(scenario, trainer=trainers)


def test_serving_comes_first(bundle):
    """A paused device keeps its round and ends it later; one that starts while paused begins paused."""
    trainers = Trainers()

    async def scenario(rig):
        job, training = Job(rig, bundle), rig.device.jobs
        training.pause(paused=True)
        await job.open(1)
        await asyncio.sleep(2)
        assert job.updates() == []
        assert training.working
        training.pause(paused=False)
        await until(job.updates)

    simulate(scenario, trainer=trainers, train_pause_ms=0)


def test_a_slow_call_pauses_training_for_a_moment(bundle):
    """The bound is on what callers feel; training goes on by itself once serving is quick again."""
    trainers = Trainers(seconds=5.0)

    async def scenario(rig):
        job, training = Job(rig, bundle), rig.device.jobs
        await job.open(1)
        rig.device.requests._slowest_us = 60_000
        await until(lambda: training.paused, 2)
        await until(lambda: not training.paused, 2)
        await until(job.updates)

    simulate(scenario, trainer=trainers)


def test_a_full_disk_does_not_keep_the_update_back(bundle):
    """It is sent from memory: only a reboot before the disk has room would train again."""
    trainers = Trainers()

    async def scenario(rig):
        job = Job(rig, bundle)
        await job.open(1)
        await until(lambda: rig.device.jobs.working)
        await asyncio.sleep(0.2)
        rig.sim.disk_full("d")
        await until(job.updates)
        assert job.updates() == [(1, P, "")]

    simulate(scenario, trainer=trainers)


def test_a_device_without_a_trainer_takes_no_part(bundle):
    """It serves; rounds are nothing to it."""

    async def scenario(rig):
        job = Job(rig, bundle)
        await job.open(1)
        await until(lambda: rig.edge.said(Load))
        assert rig.edge.said(Load)[-1].values["training"] == 0
        assert job.updates() == []

    simulate(scenario)
