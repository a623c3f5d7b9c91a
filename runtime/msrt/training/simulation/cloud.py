"""One round as the cloud holds it: what `msrt_cloud.open_round` does, one thing after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from msrt.learning import events as e
from msrt.learning.compress import Codec
from msrt.learning.notes import worst_decile
from msrt.learning.rounds import GlobalRound
from msrt.learning.rules import Rule, Total
from msrt.training.simulation.master import OPEN, OVER, Packet, judged

__all__ = ["CloudRound"]

FEW = 16


class CloudRound:
    """`codecs`: of a node's update, and of a region's sum. `rule`: for what comes alone."""

    def __init__(self, machine: GlobalRound, codecs: tuple[Codec, Codec], rule: Rule) -> None:
        self.machine, self._codecs = machine, codecs
        self.total = Total(rule, machine.size)
        self.outcome: e.Finish | e.Abandon | None = None
        self.bytes_up = 0
        self._ratio: float | None = None
        self._held: dict[str, Packet] = {}
        self._keys = 0

    def arrived(self, packet: Packet) -> None:
        """From a master below."""
        meta, payload = packet
        self._keys += 1
        key = str(self._keys)
        self._held[key] = packet
        self.bytes_up += len(payload)
        if payload:
            whole = len(payload) + len(msgspec.msgpack.encode(meta))
            self._ratio = round(whole / (4 * self.machine.size), 4)
        event = e.Arrived(key, meta, *judged(packet, self._codecs[meta.is_sum]))
        self._perform(self.machine.handle(event, OPEN))

    def end(self) -> e.Finish | e.Abandon:
        """Nobody else comes."""
        if self.outcome is None:
            self._perform(self.machine.handle(e.Tick(), OVER))
        assert self.outcome is not None, "the deadline ends every round"
        return self.outcome

    def _perform(self, actions: Sequence[e.RoundAction]) -> None:
        for action in actions:
            match action:
                case e.Add(key, weight, scale):
                    meta, payload = self._held.pop(key)
                    self.total.add(payload, self._codecs[meta.is_sum], weight, scale, is_sum=meta.is_sum)
                case e.Drop(key, _) | e.Refuse(key, _, _):
                    self._held.pop(key, None)
                case e.Finish() | e.Abandon():
                    self.outcome = action
                case _:
                    pass

    def line(self, finish: e.Finish) -> dict[str, Any]:
        """What a real job's report says of a round, but for time and what goes down."""
        machine, metrics = self.machine, finish.metrics
        away = sorted(machine.participants - finish.included.keys() - finish.failed.keys())
        return {
            "round": machine.round, "loss": metrics.get("loss"), "accuracy": metrics.get("accuracy"),
            "bytes_up": self.bytes_up, "nodes": len(finish.included), "late": finish.late, "failed": finish.failed,
            "update_bytes": metrics.get("update_bytes"), "update_bytes_ratio": self._ratio,
            "worst_decile": worst_decile(machine.notes.values()), "work": metrics.get("work"),
            "asked": len(machine.participants), "absent": len(away), "stragglers": away[:FEW],
        }  # fmt: skip
