"""Canaries by share of the traffic, in whole trees: their own requests decide, over restarts and with edges away."""

from __future__ import annotations

import asyncio

from msrt import errors
from msrt.protocol.messages import InferFailed
from tests.flows.test_stories_policies import rolled
from tests.flows.tree import grown, until

ROW = [1, 2, 3, 4]
CLOUD = {
    "rollout_alpha": 0.05, "rollout_beta": 0.05, "rollout_failures": 0.1, "rollout_slow": 0.3,
    "rollout_evidence_s": 150.0,
}  # fmt: skip
"""Effects that a minute of this traffic shows."""


class Traffic:
    """A client that asks a hundred times a second."""

    def __init__(self, tree):
        self.tree, self.asked = tree, []

    async def __aenter__(self):
        self.task = asyncio.get_running_loop().create_task(self.run())
        return self

    async def __aexit__(self, *_exc):
        self.task.cancel()

    async def run(self):
        while True:
            client = self.tree.sim.node("client")
            if client is not None:
                self.asked.append(client.handler.ask(ROW, "net", 5.0))
            await asyncio.sleep(0.01)

    def answered_by(self, version):
        return sum(message.version == version for one in self.asked for message, _ in one.answers)

    @property
    def failed(self):
        """Requests that got an error for an answer."""
        return sum(bool(one.failures and not one.answers) for one in self.asked)


def spoil(tree, version, *, fails_every=0, late_s=0.0):
    """On every device that version fails every nth batch, or answers late."""
    for name in tree.devices:
        requests = tree[name].requests
        requests.received = _Spoilt(requests, version, fails_every, late_s)


class _Spoilt:
    def __init__(self, requests, version, fails_every, late_s):
        self.through, self.version = requests.received, version
        self.fails_every, self.late_s, self.seen = fails_every, late_s, 0

    def __call__(self, peer, message, frames):
        if message.version != self.version:
            self.through(peer, message, frames)
            return
        self.seen += 1
        if self.fails_every and self.seen % self.fails_every == 0:
            peer.send(InferFailed(message.ids, "model_failed", "a node of the graph failed"))
        else:
            asyncio.get_running_loop().call_later(self.late_s, self.through, peer, message, frames)


async def first(tree):
    """Version 1 serves everywhere."""
    await rolled(tree, 1)
    await until(lambda: tree.ready("net", 1), what="version 1 is ready")


async def begun(tree):
    """Version 2 is pushed and gets a quarter of the traffic."""
    version = await tree.push(2)
    await tree.ask("model.rollout", model="net", version=version, traffic=0.25)


async def ended(tree, seconds=200.0):
    """The rollout once it is decided."""

    def decided():
        return tree.cloud is not None and tree.cloud.ready.is_set() and status(tree)["state"] != "canary"

    await until(decided, seconds, "the canary is decided")
    return status(tree)


def status(tree):
    return tree.cloud.rollouts.status("net")


def story(seed, scenario, edges=None):
    """Run it in a tree of few devices."""
    grown(scenario, seed, edges=edges or {"edge-n": 2, "edge-s": 1}, cloud_config=CLOUD, sources=0)


def test_a_good_canary_is_promoted_by_its_requests(seed):
    """It gets its share while it is a canary, then everything; the reason names what was weighed."""

    async def tale(tree):
        await first(tree)
        async with Traffic(tree) as traffic:
            await begun(tree)
            await until(lambda: traffic.answered_by(2) > 50)
            assert status(tree)["state"] == "canary"
            share = traffic.answered_by(2) / (traffic.answered_by(1) + traffic.answered_by(2))
            assert share < 0.35
            assert {row["what"] for row in status(tree)["evidence"]} == {"errors", "slow answers"}
            found = await ended(tree)
            assert found["state"] in ("live", "done")
            assert "errors 0.00%" in tree.cloud.writer.state.rollouts["net"].reason
            await until(lambda: tree.ready("net", 2))
            assert traffic.failed == 0

    story(seed, tale)


def test_a_canary_with_more_errors_goes_back_and_callers_hardly_notice(seed):
    """Half of its batches fail: what it could not do the stable version does, and it is gone in a minute."""

    async def tale(tree):
        await first(tree)
        async with Traffic(tree) as traffic:
            await begun(tree)
            spoil(tree, 2, fails_every=2)
            found = await ended(tree)
            assert found["state"] == "rolled_back"
            assert found["reason"].startswith("errors")
            await until(lambda: tree.ready("net", 1))
            assert traffic.failed <= 0.01 * len(traffic.asked)

    story(seed, tale)


def test_a_slow_canary_goes_back(seed):
    """It fails nothing, and loads and warms as any other; its answers are late."""

    async def tale(tree):
        await first(tree)
        async with Traffic(tree):
            await begun(tree)
            spoil(tree, 2, late_s=0.05)
            found = await ended(tree)
            assert found["state"] == "rolled_back"
            assert "slow answers" in found["reason"]

    story(seed, tale)


def test_a_canary_that_answers_otherwise_goes_back(seed):
    """Where it is the model's shadow as well, its answers are held against those that were given."""

    async def tale(tree):
        await first(tree)
        async with Traffic(tree):
            await begun(tree)
            await tree.ask("model.policy", model="net", change={"shadow": 2, "shadow_share": 0.5})
            found = await ended(tree)
            assert found["state"] == "rolled_back"
            assert found["reason"].startswith("disagreement")

    story(seed, tale)


def test_a_version_that_does_not_load_gets_no_traffic_at_all(seed):
    """Not one request goes to what is not ready on a device: the rollout goes back without any."""

    async def tale(tree):
        await first(tree)
        async with Traffic(tree) as traffic:
            for name in tree.devices:
                tree[name].keeper._engine = Refusing()
            await begun(tree)
            found = await ended(tree)
            assert found["state"] == "rolled_back"
            assert "could not load it" in found["reason"]
            assert traffic.answered_by(2) == traffic.failed == 0

    story(seed, tale)


def test_a_version_that_lacks_memory_for_a_moment_is_loaded_after_all(seed):
    """Status says what its devices wait for; nobody rolls anything back, and no request fails."""

    async def tale(tree):
        await first(tree)
        async with Traffic(tree) as traffic:
            engines = {name: tree[name].keeper._engine for name in tree.devices}
            for name in tree.devices:
                tree[name].keeper._engine = Short()
            await begun(tree)
            await until(lambda: any("no memory" in one for one in status(tree)["troubles"]))
            await asyncio.sleep(10)
            assert traffic.answered_by(2) == 0
            for name, engine in engines.items():
                tree[name].keeper._engine = engine
            await until(lambda: traffic.answered_by(2) > 10)
            found = await ended(tree)
            assert found["state"] in ("live", "done"), found["reason"]
            assert traffic.failed == 0

    story(seed, tale)


class Short:
    """An engine whose machine has given its memory to others."""

    def load(self, _data):
        raise MemoryError


class Refusing:
    """An engine that takes no graph."""

    def load(self, _data):
        raise errors.ModelFailed("no such operator")


def test_a_canary_outlives_a_restart_of_the_cloud(seed):
    """Its evidence begins again, for the edges go on counting; the end is the same."""

    async def tale(tree):
        await first(tree)
        async with Traffic(tree) as traffic:
            await begun(tree)
            spoil(tree, 2, fails_every=4)
            await until(lambda: traffic.answered_by(2) > 10)
            tree.sim.crash("cloud")
            before = traffic.answered_by(2)
            await until(lambda: traffic.answered_by(2) > before)
            tree.sim.restart("cloud")
            found = await ended(tree)
            assert found["state"] == "rolled_back"
            assert found["reason"].startswith("errors")

    story(seed, tale)


def test_a_canary_is_decided_with_an_edge_away(seed):
    """The edge that had the traffic dies: the client goes to the other one, and that one's requests decide."""

    async def tale(tree):
        await first(tree)
        async with Traffic(tree) as traffic:
            await begun(tree)
            await until(lambda: traffic.answered_by(2) > 10)
            used = tree.sim.node("client").uplink.peer.node
            name = next(edge for edge in tree.edges if tree[edge].node == used)
            tree.sim.crash(name)
            found = await ended(tree)
            assert found["state"] in ("live", "done")
            tree.sim.restart(name)
            await until(lambda: tree[name] is not None and tree.ready("net", 2), 120.0)

    story(seed, tale)


def test_without_traffic_a_canary_ends_undecided_and_goes_back(seed):
    """Nothing was shown: it is said so, and what served goes on serving."""

    async def tale(tree):
        await first(tree)
        await begun(tree)
        found = await ended(tree)
        assert found["state"] == "rolled_back"
        assert found["reason"].startswith("undecided after 150 s")

    story(seed, tale)


def test_what_edges_counted_is_what_the_client_got(seed):
    """`model.stats`: requests by version and region, without those that nobody asked for."""

    async def tale(tree):
        await first(tree)
        async with Traffic(tree) as traffic:
            await asyncio.sleep(20)
        await asyncio.sleep(5)
        rows = await tree.ask("model.stats", model="net")
        assert {row["version"] for row in rows} == {1}
        assert sum(row["requests"] - row["errors"] for row in rows) == traffic.answered_by(1)
        busy = max(rows, key=lambda row: row["requests"])  # one may go elsewhere before the first device has told
        assert busy["p50_ms"] > 0
        assert busy["batch"] >= 1
        assert 40 < busy["per_s"] < 120

    story(seed, tale)
