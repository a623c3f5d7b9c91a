"""One running job: first weights, round after round, then the finished model."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop import Peer
from msrt.journal.facts import JobAdvanced, JobCreated
from msrt.learning import events as e
from msrt.learning.aggregate import NormGuard, RunningSum, check
from msrt.learning.compress import Codec, open_codec
from msrt.learning.rounds import GlobalRound, Pace
from msrt.learning.vector import Layout, advance, l2_norm, load, peek
from msrt.protocol.messages import RoundClosed, RoundOpen, UpdateMeta
from msrt.training.settings import JobConfig
from msrt.training.task import Node
from msrt_cloud.muster import candidates, draw, muster
from msrt_cloud.publish import publish

if TYPE_CHECKING:
    from msrt_cloud.training import Training

__all__ = ["RunningJob"]

log = structlog.get_logger()
WORK_S: Final = 300.0
GATHER_S: Final = 0.25
AWAY_S: Final = 3.0
"""The devices of a dead edge have that long to come back at another one."""
RETRIES: Final = 5
"""Rounds without quorum in a row, after which the job fails."""
PAUSE_S: Final = 1.0
"""Least time from the opening of a round that is given up to the next one's; doubled by each one in a row."""
TOLD_AT_ONCE: Final = 6000
"""Participants in one message: their ids take half of a header."""


class _Round:
    """One open round and its sums."""

    def __init__(
        self, message: RoundOpen, machine: GlobalRound, indices: dict[str, int], opened: float, layout: Layout
    ) -> None:
        self.message, self.machine, self.indices, self.opened = message, machine, indices, opened
        self.deadline = opened + message.deadline_s
        self.sum = RunningSum(machine.size)
        self._codecs = open_codec(message.compression, layout), open_codec(message.upward, layout)
        self.payloads: dict[str, tuple[UpdateMeta, Buffer]] = {}
        self.lock = asyncio.Lock()
        self.away: dict[str, float] = {}
        """Participants that no edge has, since when."""
        self.told: dict[str, set[str]] = {}
        """Edge to the participants that it was told of."""
        self.bytes_up = 0
        self.ratio: float | None = None
        """Bytes of one update, its meta included, against the same vector in float32."""
        self.over: asyncio.Future[e.Finish | e.Abandon] = asyncio.get_running_loop().create_future()

    def codec(self, meta: UpdateMeta) -> Codec:
        """Of a region's sum, or of a device's update."""
        return self._codecs[meta.is_sum]


class RunningJob:
    """`training` is the coordinator: its world, journal, artifacts and fleet. Until `until` a round waits for all that
    the journal knows.
    """

    def __init__(self, training: Training, created: JobCreated, config: JobConfig, until: float) -> None:
        self._t, self._created, self._config, self.name = training, created, config, created.job
        self._until = until
        self._workshop = training.workshop(self.name)
        self._round: _Round | None = None
        self._keys = 0
        self.regions: dict[str, tuple[int, int, int]] = {}
        self.waiting = "starting"

    @property
    def progress(self) -> tuple[int, int]:
        """Nodes that reported in this round, and participants."""
        now = self._round
        if now is None:
            return 0, 0
        regional = sum(reported for round_, reported, _ in self.regions.values() if round_ == now.message.round)
        return max(now.machine.reported, regional), len(now.machine.participants)

    async def run(self) -> None:
        """Until the last round is checkpointed and published. Raises what ends the job."""
        bundle = await self._t.artifacts.read(self._created.bundle)
        await self._workshop.start(bundle)
        job = self._t.writer.state.jobs[self.name]
        weights = job.weights or await self._first_weights()
        guard: NormGuard | None = None
        failures, nodes = 0, list[Node]()
        number = job.round
        while number < self._config.rounds:
            data = await self._t.artifacts.read(weights)
            if guard is None:
                guard = NormGuard.for_weights(await self._t.world.offload(l2_norm, load(data)[1]))
            outcome, nodes = await self._one_round(number + 1, weights, data, guard)
            if isinstance(outcome, e.Abandon):
                failures += 1
                self.waiting = why = self._why(outcome)
                log.warning("round.abandoned", job=self.name, round=number + 1, reason=why)
                if failures >= RETRIES:
                    raise errors.JobFailed(f"{RETRIES} rounds in a row were given up: {why}")
                await self._pause(failures)
                continue
            failures = 0
            number += 1
            weights = self._t.writer.state.jobs[self.name].weights
        await self._finish(weights, nodes)

    async def _pause(self, failures: int) -> None:
        """What made all devices fail at once (no space, no network) lasts a while; five rounds are soon spent on it."""
        assert self._round is not None
        spent = self._t.world.now() - self._round.opened
        await asyncio.sleep(max(0.0, min(PAUSE_S * 2**failures, self._config.deadline_s) - spent))

    def _why(self, given_up: e.Abandon) -> str:
        """The reason, and what most of those who failed said, in the words of one of them."""
        if not given_up.failed:
            return given_up.reason
        fault, _ = Counter(given_up.failed.values()).most_common(1)[0]
        node = next(node for node, text in sorted(given_up.failed.items()) if text == fault)
        known = self._t.writer.state.nodes.get(node)
        return f"{given_up.reason}; {known.name if known else node} said: {fault}"

    async def close(self) -> None:
        """End the workshop's process."""
        await self._workshop.stop()

    async def _first_weights(self) -> str:
        self.waiting = "making the first weights"
        return await self._t.artifacts.put_bytes(await self._workshop.initial(WORK_S))

    # --- a round -------------------------------------------------------------------------------------------------

    async def _gather(self, number: int) -> dict[str, int]:
        """Wait for enough devices; node id to its index."""
        t, config = self._t, self._config
        due = muster(t.writer.state, t.writer.state.jobs[self.name], config.min_nodes, config.select, self._until)
        while True:
            devices = [device.node for device in t.participants(config.select)]
            self.waiting = due.missing(t.fleet.heard(), devices, t.world.now())
            if not self.waiting:
                return {node: index for index, node in enumerate(draw(devices, config.max_nodes, self.name, number))}
            await asyncio.sleep(GATHER_S)

    async def _one_round(
        self, number: int, weights: str, data: Buffer, guard: NormGuard
    ) -> tuple[e.Finish | e.Abandon, list[Node]]:
        participants = await self._gather(number)
        now, config = self._t.world.now(), self._config
        quorum = max(1, round(config.quorum * len(participants)))
        pace = Pace(now, now + config.deadline_s, quorum)
        layout = peek(data)[0]
        message = RoundOpen(
            self.name, number, self._created.bundle, self._created.signature, weights, config.deadline_s,
            {}, len(participants), config.links.device, config.max_samples, config.links.region,
        )  # fmt: skip
        known = candidates(self._t.writer.state, config.select)
        machine = GlobalRound(self.name, number, layout.size, participants, pace, guard, known)
        machine.most = config.max_samples
        self._round = current = _Round(message, machine, participants, now, layout)
        self.waiting = ""
        self.announce(self._t.edges())
        ticker = asyncio.get_running_loop().create_task(self._tick(current))
        try:
            outcome = await current.over
        finally:
            ticker.cancel()
        if isinstance(outcome, e.Finish):
            await self._checkpoint(current, outcome, data)
            self._say_closed(current, outcome.included)
        nodes = [Node(id=node, index=index, count=len(participants)) for node, index in participants.items()]
        return outcome, nodes

    def announce(self, peers: Sequence[Peer]) -> None:
        """Tell edges that the round is open."""
        current = self._round
        if current is None or current.over.done():
            return
        for peer in peers:
            current.told[peer.node] = set()
            edge = self._t.fleet.edges.get(peer.node)
            if edge is not None:
                self._tell(current, peer, edge.devices.keys())

    def _tell(self, current: _Round, peer: Peer, devices: Collection[str]) -> None:
        """An edge hears of the participants that are its own: of all of them no message could speak."""
        told = current.told.setdefault(peer.node, set())
        fresh = sorted(node for node in current.indices.keys() & devices if node not in told)
        left = max(0.1, current.deadline - self._t.world.now())
        while fresh and peer.live:
            some, fresh = fresh[:TOLD_AT_ONCE], fresh[TOLD_AT_ONCE:]
            indices = {node: current.indices[node] for node in some}
            peer.send(msgspec.structs.replace(current.message, deadline_s=left, participants=indices))
            told.update(some)

    def _say_closed(self, current: _Round, included: Collection[str]) -> None:
        for peer in self._t.edges():
            if peer.live:
                theirs = sorted(current.told.get(peer.node, set()).intersection(included))
                peer.send(RoundClosed(self.name, current.message.round, tuple(theirs[:TOLD_AT_ONCE])))

    def devices_changed(self, devices: Collection[str]) -> None:
        """Who is away for long is not waited for once the quorum is met; one that only changes its edge is."""
        current = self._round
        if current is None or current.over.done():
            return
        now = self._t.world.now()
        moved: dict[str, list[str]] = {}
        for node in sorted(current.machine.participants.intersection(devices)):
            home = self._t.fleet.home(node)
            if home is None:
                current.away.setdefault(node, now)
                continue
            if node not in current.told.get(home.node, ()):
                moved.setdefault(home.node, []).append(node)
            if current.away.pop(node, None) is not None or node in current.machine.gone:
                self._later(current, current.machine.handle(e.Joined(node), now))
        for peer in self._t.edges() if moved else ():
            self._tell(current, peer, moved.get(peer.node, ()))

    def wants(self, meta: UpdateMeta) -> bool:
        """Is this update of the open round?"""
        current = self._round
        return current is not None and not current.over.done() and meta.round == current.message.round

    async def arrived(self, _peer: Peer, meta: UpdateMeta, payload: Buffer) -> None:
        """A whole update. Raises BadUpdate to tell its sender."""
        current = self._round
        if current is None or not self.wants(meta):
            return
        norm, fault = 0.0, meta.error
        if not fault:
            try:
                current.codec(meta).named(meta.encoding)
                norm = await self._t.world.offload(check, payload, current.codec(meta))
            except errors.BadUpdate as error:
                fault = error.text
        self._keys += 1
        key = str(self._keys)
        current.payloads[key] = (meta, payload)
        current.bytes_up += len(payload)
        if payload:
            whole = len(payload) + len(msgspec.msgpack.encode(meta))
            current.ratio = round(whole / (4 * current.machine.size), 4)
        actions = current.machine.handle(e.Arrived(key, meta, norm, fault), self._t.world.now())
        await self._perform(current, actions)
        refused = [action for action in actions if isinstance(action, e.Refuse)]
        if refused and not meta.error:
            raise errors.BadUpdate(refused[0].error)

    async def _tick(self, current: _Round) -> None:
        while True:
            await asyncio.sleep(0.05)
            now = self._t.world.now()
            for node in [n for n, since in current.away.items() if now - since > AWAY_S]:
                del current.away[node]
                await self._perform(current, current.machine.handle(e.Left(node), now))
            await self._perform(current, current.machine.handle(e.Tick(), now))

    def _later(self, current: _Round, actions: list[e.RoundAction]) -> None:
        if actions:
            task = asyncio.get_running_loop().create_task(self._perform(current, actions))
            task.add_done_callback(lambda done: done.cancelled() or done.result())

    async def _perform(self, current: _Round, actions: list[e.RoundAction]) -> None:
        for action in actions:
            match action:
                case e.Add(key, weight):
                    meta, payload = current.payloads.pop(key)
                    async with current.lock:
                        await self._t.world.offload(current.sum.add, payload, current.codec(meta), weight)
                case e.Drop(key, _) | e.Refuse(key, _, _):
                    current.payloads.pop(key, None)
                    if isinstance(action, e.Refuse):
                        log.warning("round.update_refused", job=self.name, nodes=action.nodes, why=action.error)
                case e.Finish() | e.Abandon():
                    if not current.over.done():
                        current.over.set_result(action)

    async def _checkpoint(self, current: _Round, outcome: e.Finish, data: Buffer) -> None:
        """New weights on disk, then one journal entry: from then on the senders may forget."""
        t, number = self._t, current.message.round
        rate = self._config.server.lr
        new = await t.world.offload(lambda: advance(data, current.sum.mean(), rate))
        weights = await t.artifacts.put_bytes(new)
        included = tuple(outcome.included)
        await t.writer.append(JobAdvanced(self.name, number, weights, outcome.metrics, included, t.world.wall()))
        metrics = outcome.metrics
        row = {
            "round": number, "loss": metrics.get("loss"), "accuracy": metrics.get("accuracy"),
            "seconds": round(t.world.now() - current.opened, 3), "bytes_up": current.bytes_up,
            "bytes_down": len(data) * len(t.edges()), "nodes": len(included), "failed": outcome.failed,
            "update_bytes": metrics.get("update_bytes"),
            "update_bytes_ratio": current.ratio,
        }  # fmt: skip
        await t.record(self.name, f"{number:06d}", row)
        log.info("round.closed", job=self.name, round=number, nodes=len(included), **metrics)

    # --- the end -------------------------------------------------------------------------------------------------

    async def _finish(self, weights: str, nodes: list[Node]) -> None:
        self._round = None
        data = await self._t.artifacts.read(weights)
        size = peek(data)[0].size
        end: dict[str, Any] = {"parameters": size}
        if self._config.baseline is not None and nodes:
            self.waiting = "measuring the baselines"
            judged = await self._workshop.evaluate(data, nodes, WORK_S)
            base = await self._workshop.baseline(nodes, WORK_S)
            end |= {"accuracy": judged.metrics.get("accuracy"), "alone_mean": base.alone_mean, "pooled": base.pooled}
        if self._config.publish is not None:
            self.waiting = "publishing"
            end["published"] = await publish(self._t, self._workshop, self._config.publish, data)
        await self._t.record(self.name, "end", end)
