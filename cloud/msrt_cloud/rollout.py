"""When a model version may go on, and when it must go back. Pure.

A rollout is desired state in the journal; this machine only watches what edges report and says what the journal
should say next. It survives a restart: the journal gives the state, the clocks begin again.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from msrt.dispatch.canary import is_canary
from msrt.dispatch.sequential import Finding
from msrt.protocol.messages import DeviceRecord, ModelState
from msrt_cloud.evidence import Evidence

__all__ = ["TABLE", "Decision", "Pace", "Rollout", "Seen", "Stage", "Verdict"]


class Stage(enum.Enum):
    """Where a rollout stands; the values are what the journal says."""

    CANARY = "canary"
    LIVE = "live"
    DONE = "done"
    ROLLED_BACK = "rolled_back"


class Verdict(enum.Enum):
    """What the devices that should have the version look like together."""

    NOBODY = "nobody"
    WAITING = "waiting"
    HEALTHY = "healthy"
    PROVEN = "proven"
    BAD = "bad"
    UNDECIDED = "undecided"


TABLE: Final[dict[tuple[Stage, Verdict], Stage]] = {
    (Stage.CANARY, Verdict.PROVEN): Stage.LIVE,
    (Stage.CANARY, Verdict.NOBODY): Stage.LIVE,
    (Stage.CANARY, Verdict.BAD): Stage.ROLLED_BACK,
    (Stage.CANARY, Verdict.UNDECIDED): Stage.ROLLED_BACK,
    (Stage.LIVE, Verdict.PROVEN): Stage.DONE,
    (Stage.LIVE, Verdict.BAD): Stage.ROLLED_BACK,
}
"""(stage, verdict) -> next stage. What is not here stays: a live one that nobody has is watched later."""

MIN_FAILURES: Final = 3
"""A version is unhealthy when it failed this often, and in more than `Pace.failures` of its requests."""


MAX_TROUBLES: Final = 3
"""Devices whose errors are told, where many have the same."""


@dataclass(frozen=True)
class Pace:
    """How patient a rollout is."""

    window_s: float = 5.0
    """How long every device must be ready and healthy before the next stage."""
    ready_s: float = 120.0
    """How long devices may take to fetch, load and warm a version."""
    failures: float = 0.02
    """Share of a device's requests that may fail."""
    evidence_s: float = 600.0
    """How long a canary by share of the traffic may stay undecided."""
    undecided: str = "rollback"
    """What becomes of it then: rollback, or promote."""


@dataclass(frozen=True)
class Seen:
    """One device as its edge reports it."""

    region: str
    device: DeviceRecord


@dataclass(frozen=True)
class Decision:
    """The journal should say this next."""

    stage: Stage
    reason: str


class Rollout:
    """Watches one version of one model."""

    def __init__(
        self, model: str, version: int, canary: str, stage: Stage, *, pace: Pace, now: float,
        evidence: Evidence | None = None, traffic: float = 0.0,
    ) -> None:  # fmt: skip
        """`traffic`: it gets this share of the requests, and goes on only when `evidence` says so."""
        self.model, self.version, self.canary, self.stage, self.pace = model, version, canary, stage, pace
        self.evidence, self.traffic = evidence, traffic
        self._began = self._since = self._heard = now
        self._healthy_since: float | None = None
        self.ready = self.expected = 0
        self.troubles: list[str] = []
        """Why devices that are still trying could not load it so far; a few."""

    def observe(self, targets: Sequence[Seen], now: float) -> Decision | None:
        """Look at all the devices the rollout is for; what should the journal say next, if anything?"""
        watched = [s for s in targets if s.device.alive]
        if self.stage is Stage.CANARY:
            watched = [s for s in watched if is_canary(self.canary, s.region, s.device.node, self.model)]
        verdict, reason = self._judge(watched, now)
        if self.stage is Stage.CANARY and self.evidence is not None:
            verdict, reason = self._weigh(self.evidence, verdict, reason, now)
        following = TABLE.get((self.stage, verdict))
        if following is None:
            return None
        self.stage, self._since, self._healthy_since = following, now, None
        return Decision(following, reason)

    def _weigh(self, evidence: Evidence, verdict: Verdict, reason: str, now: float) -> tuple[Verdict, str]:
        """What its requests say, over what its devices look like: a version that does not load, warm or stay up needs
        no requests to be bad."""
        if verdict is Verdict.BAD:
            return verdict, reason
        if evidence.finding is Finding.BAD:
            return Verdict.BAD, evidence.against()
        if not self.traffic:
            return verdict, reason
        if evidence.finding is Finding.GOOD and verdict is Verdict.PROVEN:
            return verdict, evidence.summary()
        if now - self._began < self.pace.evidence_s:
            return Verdict.WAITING, ""
        known = f"undecided after {self.pace.evidence_s:g} s ({evidence.summary()})"
        if self.pace.undecided == "promote" and verdict is Verdict.PROVEN:
            return verdict, f"{known}: it goes on, as rollout_undecided says"
        return Verdict.UNDECIDED, known

    def _judge(self, watched: Sequence[Seen], now: float) -> tuple[Verdict, str]:
        states = [(s.device, self._state(s.device)) for s in watched]
        self.expected, self.ready = len(states), sum(1 for _, m in states if m is not None and m.state == "ready")
        troubled = ((d, m) for d, m in states if m is not None and m.error and m.state != "ready")
        self.troubles = [f"{device.name}: {model.error}" for device, model in islice(troubled, MAX_TROUBLES)]
        if not states:
            self._healthy_since = None
            # It began with somebody there: the edges, or this cloud, were away, and silence proves nothing.
            if self.stage is Stage.CANARY and now - self._heard < self.pace.ready_s:
                return Verdict.WAITING, ""
            self._since = now  # who comes later has all the time to get ready
            return Verdict.NOBODY, "no matching device"
        self._heard = now
        for device, model in states:
            if model is None:
                continue
            if model.state == "failed":
                return Verdict.BAD, f"{device.name} could not load it: {model.error}"
            counted = self.traffic and self.stage is Stage.CANARY  # then they are weighed, beside the stable version's
            if not counted and model.failures >= MIN_FAILURES and model.failures > self.pace.failures * model.requests:
                return Verdict.BAD, f"{device.name} failed {model.failures} of {model.requests} requests"
        if self.ready < self.expected:
            self._healthy_since = None
            if now - self._since > self.pace.ready_s:
                late = f"{self.expected - self.ready} devices were not ready after {self.pace.ready_s:g} s"
                return Verdict.BAD, f"{late} ({'; '.join(self.troubles)})" if self.troubles else late
            return Verdict.WAITING, ""
        if self._healthy_since is None:
            self._healthy_since = now
        if now - self._healthy_since < self.pace.window_s:
            return Verdict.HEALTHY, ""
        return Verdict.PROVEN, f"{self.ready} devices ready and healthy for {self.pace.window_s:g} s"

    def _state(self, device: DeviceRecord) -> ModelState | None:
        for model in device.models:
            if model.model == self.model and model.version == self.version:
                return model
        return None
