"""The cloud's part of a simulated job: what `msrt_cloud.job` does, without anybody to wait for."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, Final

import msgspec
import numpy as np

from msrt.errors import BadUpdate, InvalidJob, JobFailed
from msrt.learning import events as e
from msrt.learning.aggregate import NormGuard
from msrt.learning.compress import ErrorFeedback, change, open_codec
from msrt.learning.control import parts, steered
from msrt.learning.history import UNKNOWN, History
from msrt.learning.notes import Judged, worst_first
from msrt.learning.optimise import Optimiser
from msrt.learning.pacing import Pace
from msrt.learning.rounds import GlobalRound, Terms
from msrt.learning.rules import open_rule
from msrt.learning.selection import select
from msrt.learning.vector import Vector, l2_norm, save
from msrt.protocol.messages import UpdateMeta
from msrt.training.local import Local
from msrt.training.simulation.cloud import CloudRound
from msrt.training.simulation.limits import check_config
from msrt.training.simulation.master import OPEN, OVER, Opened, Packet, coming, grow
from msrt.training.simulation.privacy import Hidden
from msrt.training.simulation.shape import Shape
from msrt.training.task import Node

__all__ = ["Chances", "Simulation"]

RETRIES: Final = 5
"""Rounds without quorum in a row, after which the job fails, as on the cloud."""


class Chances(msgspec.Struct, frozen=True):
    """What goes wrong by chance, drawn from the job's seed."""

    stragglers: float = 0.0
    """Share of a round's participants that have time for 1 .. epochs - 1 of their epochs, as Li 2020 draws them (for a
    half, where there is one). They send what they have done with [pace] partial, else nothing in time."""


CALM: Final = Chances()


class Simulation:
    """One job. `now` gives seconds of any clock, `wall` seconds since 1970; `data` is every node's data directory.

    It keeps one model, the data of all nodes once they took part, and what a biased codec left out at each of them.
    """

    def __init__(
        self, local: Local, shape: Shape, now: Callable[[], float], wall: Callable[[], float], data: str = "",
        chances: Chances = CALM,
    ) -> None:  # fmt: skip
        check_config(local.config, shape.nodes)
        self.local, self.config, self.shape = local, local.config, shape
        self._now, self._wall, self._chances = now, wall, chances
        wide = len(str(shape.nodes - 1))
        nodes = [Node(f"n{i:0{wide}}", index=i, count=shape.nodes, data=data) for i in range(shape.nodes)]
        self.nodes = {node.id: node for node in nodes}
        layout, links = local.layout, self.config.links
        self._codecs = open_codec(links.device, layout), open_codec(links.region, layout)
        self.weights = self.served = local.initial()
        """What is checkpointed, and what the nodes have of it."""
        norm = l2_norm(self.weights)
        self._hidden = hidden = Hidden.of(self.config)
        local.noise = hidden.noise if hidden else 0.0

        def guard() -> NormGuard:
            return hidden.guard() if hidden else NormGuard.for_weights(norm)

        self._guard = guard()
        self.reason = ""
        """Why it ended before its last round."""
        self._model = parts(layout)[0].size
        self._optimiser = Optimiser(self.config.server.recipe, self._model)
        self._history = History()
        self._judged: dict[str, Judged] = {}
        self._masters = grow(shape, self._codecs[1], guard)
        self._feedback: dict[str, ErrorFeedback] = {}
        self._bytes_from_nodes = 0
        self.lines: list[dict[str, Any]] = []
        self.end: dict[str, Any] = {}

    # --- rounds --------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[dict[str, Any]]:
        """The line of each round, as a real job's report has it. Raises JobFailed, and what user code raises."""
        failures = 0
        while len(self.lines) < self.config.rounds:
            number, began = len(self.lines) + 1, self._now()
            able = list(self.nodes) if self._hidden is None else self._hidden.able(self.nodes, number)
            if not able:
                self.reason = f"its privacy budget is spent after round {number - 1}"
                return
            self._bytes_from_nodes = 0
            opened = self._one_round(number, failures, able)
            outcome = opened.end()
            if isinstance(outcome, e.Abandon):
                failures += 1
                if failures >= RETRIES:
                    raise JobFailed(f"{RETRIES} rounds in a row were given up: {_why(outcome)}")
                continue
            failures = 0
            mean, spent = opened.total.mean(), {}
            if self._hidden is not None:
                mean, spent = self._hidden.noisy(mean, len(outcome.included), number), self._hidden.told(number)
            down = self._advance(number, mean, outcome.included)
            machine = opened.machine
            shown = self._history.after(number, machine.participants, outcome.included, machine.notes)
            self._history.settle(shown)
            self._judged |= Judged.of(number, outcome.included, machine.notes)
            line = opened.line(outcome) | {
                "wall": self._wall(), "seconds": round(self._now() - began, 3),
                "bytes_down": down * len(self._masters), "bytes_from_nodes": self._bytes_from_nodes,
                "eligible": len(self.nodes), **spent,
            }  # fmt: skip
            self.lines.append(line)
            yield line

    def _one_round(self, number: int, attempt: int, able: Sequence[str]) -> CloudRound:
        config, size = self.config, self.local.layout.size
        wanted = config.wanted(len(able))
        taking = select(able, self._history.seen, wanted, config.name, number)
        if self._hidden is not None:
            self._hidden.asked(taking, number)
        clip = self._hidden.clip if self._hidden else config.aggregate.clip
        rule, alone = config.aggregate.opened, config.aggregate.alone
        pace = Pace(OPEN, OVER, max(1, round(config.quorum * len(taking)), rule.least))
        terms = Terms(config.heaviest, alone=alone, least=rule.least, clip=clip)
        machine = GlobalRound(config.name, number, size, taking, pace, self._guard, terms=terms)
        opened = CloudRound(machine, self._codecs, rule)
        work = self._stragglers(taking, number, attempt)

        def train(node: Node, weights: Vector, step: int, parent: str) -> Packet | None:
            return self._train(node, weights, (number, step), parent, work.get(node.id, 1.0))

        regional = open_rule(config.aggregate.regional)
        told = Opened(
            config.name, number, self.local.layout, self.served, [self.nodes[name] for name in taking],
            msgspec.structs.replace(terms, least=regional.least, steps=config.pace.steps), regional, self._codecs,
            self.shape, train,
        )  # fmt: skip
        for packet in coming(told, self._masters):
            opened.arrived(packet)
        return opened

    def _stragglers(self, taking: Sequence[str], number: int, attempt: int) -> dict[str, float]:
        """Who is one, to the share of its work that it has time for."""
        rng = np.random.default_rng([self.config.seed & 0xFFFF_FFFF, number, attempt])
        chosen = rng.choice(len(taking), round(self._chances.stragglers * len(taking)), replace=False)
        epochs = self.config.train.epochs
        return {taking[at]: int(rng.integers(1, max(2, epochs))) / max(2, epochs) for at in sorted(chosen)}

    def _train(self, node: Node, weights: Vector, turn: tuple[int, int], parent: str, work: float) -> Packet | None:
        """A node's update, or what went wrong there; nothing from a straggler whose part nobody wants."""
        (number, step), config = turn, self.config
        if work < 1.0 and not config.pace.partial:
            return None
        meta = UpdateMeta(config.name, number, {node.id: 1}, parent, self._codecs[0].name, 0, step=step)
        dice = (number - 1) * config.pace.steps + step + 1
        try:
            counted = self._history.seen.get(node.id, UNKNOWN).counted
            delta, samples, metrics = self.local.train(weights, node, dice, work=work, counted=counted)
            if self._hidden is not None:
                delta, samples, metrics = self._hidden.leaves(delta, metrics, node.id, dice)
            payload = self._remembered(node).encode(delta, dice)
        except (InvalidJob, BadUpdate) as error:
            return Packet(msgspec.structs.replace(meta, error=f"{error.code}: {error.text}"), b"")
        self._bytes_from_nodes += len(payload)
        metrics = metrics | {"update_bytes": float(len(payload))}
        meta = msgspec.structs.replace(meta, nodes={node.id: samples}, size=delta.size, metrics=metrics)
        return Packet(meta, payload)

    def _remembered(self, node: Node) -> ErrorFeedback:
        """What its codec left out so far; of one that leaves nothing out none is kept."""
        found = self._feedback.get(node.id)
        if found is None:
            found = ErrorFeedback(self._codecs[0], zlib.crc32(f"{self.config.seed}/{node.id}".encode()))
            if not found.empty:
                self._feedback[node.id] = found
        return found

    def _advance(self, number: int, mean: Vector, included: Mapping[str, int]) -> int:
        """New weights, and what the nodes have of them; the bytes that a master fetches."""
        fresh, layout = np.empty_like(self.weights), self.local.layout
        model, rate = slice(0, self._model), self.config.server.rate(number - 1, self.config.rounds)
        self._optimiser.step(self.weights[model], mean[model], rate, out=fresh[model])
        if self._model < layout.size:
            beside = slice(self._model, None)
            fresh[beside] = steered(self.weights[beside], mean[beside], self._history.shares(included))
        self.weights, down = fresh, self.config.links.down
        if down == "fp32":
            self.served = fresh
            return len(save(layout, fresh))
        moved = np.empty_like(fresh)
        payload = change(open_codec(down, layout), self.served, fresh, number, moved)
        self.served = moved
        return len(payload)

    # --- judging -------------------------------------------------------------------------------------------------

    def judge(self) -> dict[str, float]:
        """Means over the test data of all nodes together, of the weights as they are now."""
        return self.local.evaluate(self.weights, list(self.nodes.values()))[1]

    def finish(self) -> None:
        """Judge the last weights; with [baseline] train each node alone and all data pooled as well."""
        if not self.config.train.keep_local:  # else each node has a model of its own, judged in each round
            self.end["accuracy"] = self.judge().get("accuracy")
        if self.config.baseline is not None:
            alone, pooled = self.local.baseline(list(self.nodes.values()))
            self.end |= {"alone_mean": fmean(alone), "pooled": pooled}

    def _nodes(self) -> list[dict[str, Any]]:
        """How the model served single nodes, the worst first."""
        told = self._judged
        return [{"name": node, "node": node, **msgspec.to_builtins(told[node])} for node in worst_first(told)]

    def report(self) -> dict[str, Any]:
        """In the words of `msrt train status JOB --report`."""
        last = self.lines[-1] if self.lines else {}
        return {
            "rounds": self.lines, "nodes": self._nodes(), "accuracy": self.end.get("accuracy", last.get("accuracy")),
            "alone_mean": self.end.get("alone_mean"), "pooled": self.end.get("pooled"),
            "parameters": self._model, "published": None, "refused": None,
            "update_bytes_ratio": last.get("update_bytes_ratio"), "config": msgspec.to_builtins(self.config),
            "trigger": None, "job": self.config.name, "reason": self.reason, "by": "simulation",
            "cause": "", "after": "",
            "state": "finished" if self.reason or len(self.lines) == self.config.rounds else "stopped",
            "epsilon": last.get("epsilon"), "delta": last.get("delta"),
            "simulated": msgspec.to_builtins(self.shape) | msgspec.to_builtins(self._chances),
        }  # fmt: skip


def _why(given_up: e.Abandon) -> str:
    """The reason, and what one of those who failed said."""
    if not given_up.failed:
        return given_up.reason
    node, fault = min(given_up.failed.items())
    return f"{given_up.reason}; {node} said: {fault}"
