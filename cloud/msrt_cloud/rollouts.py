"""The shell of rollouts: holds each one against what the edges report, and writes what follows into the journal."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
import structlog

from msrt import errors
from msrt.dispatch.canary import is_canary, parse_canary
from msrt.journal.facts import RolloutSet
from msrt.journal.writer import Writer
from msrt.world.world import World
from msrt_cloud.fleet import Fleet
from msrt_cloud.rollout import Decision, Pace, Rollout, Stage

__all__ = ["Rollouts"]

log = structlog.get_logger()
EVERY_S = 0.25


class Rollouts:
    """All rollouts of one cloud. What the journal says survives; the clocks begin again after a restart."""

    def __init__(self, world: World, writer: Writer, fleet: Fleet, pace: Pace) -> None:
        self._world, self._writer, self._fleet, self._pace = world, writer, fleet, pace
        self._active: dict[str, Rollout] = {}
        self._windows: dict[str, float] = {}
        self._done: dict[str, tuple[int, str]] = {}
        """Model to (version, reason) of a rollout that is through."""

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            for fact in list(self._writer.state.rollouts.values()):
                await self._watch(fact)
            await asyncio.sleep(EVERY_S)

    async def _watch(self, fact: RolloutSet) -> None:
        if fact.state == Stage.ROLLED_BACK.value or self._done.get(fact.model, (0, ""))[0] == fact.version:
            return
        now = self._world.now()
        active = self._active.get(fact.model)
        if active is None or active.version != fact.version:
            pace = replace(self._pace, window_s=self._windows.get(fact.model, self._pace.window_s))
            active = Rollout(fact.model, fact.version, fact.canary, Stage(fact.state), pace=pace, now=now)
            self._active[fact.model] = active
        decision = active.observe(self._fleet.matching(fact.selector), now)
        if decision is not None:
            await self._decided(fact, decision)

    async def _decided(self, fact: RolloutSet, decision: Decision) -> None:
        log.info(
            "rollout.decided",
            model=fact.model,
            version=fact.version,
            stage=decision.stage.value,
            reason=decision.reason,
        )
        if decision.stage is Stage.DONE:
            self._done[fact.model] = (fact.version, decision.reason)
            return
        try:
            if not await self._write(fact, decision.stage.value, decision.reason):
                self._active.pop(fact.model, None)
        except errors.DiskFull as error:
            self._active.pop(fact.model, None)
            log.warning("rollout.not_written", model=fact.model, error=error.text)

    async def _write(self, fact: RolloutSet, state: str, reason: str) -> bool:
        """Move a rollout on, unless another one took its place meanwhile; did it? Raises DiskFull."""
        model, wall = fact.model, self._world.wall()
        moved = msgspec.structs.replace(fact, state=state, reason=reason, wall=wall)
        return bool(await self._writer.decide(lambda now: [moved] if now.rollouts.get(model) == fact else []))

    async def begin(self, model: str, version: int, canary: str, selector: str, window_s: float) -> dict[str, object]:
        """Write down that a version should run. Raises NotFound, InvalidAddress."""
        versions = self._writer.state.models.get(model)
        if not versions:
            raise errors.NotFound(f"no model is named {model!r}", hint="msrt model list")
        version = version or max(versions)
        if version not in versions:
            known = ", ".join(map(str, sorted(versions)))
            raise errors.NotFound(f"{model} has no version {version}", hint=f"it has {known}")
        region, share = parse_canary(canary)
        targets = self._fleet.matching(selector)
        if region and not any(seen.region == region for seen in targets) and targets:
            raise errors.NotFound(f"no matching device is in the region {region!r}", hint="msrt node list")
        if share and targets and not any(is_canary(canary, s.region, s.device.node, model) for s in targets):
            canary = f"node:{min(s.device.node for s in targets)}"
        before = self._writer.state.rollouts.get(model)
        previous = _serving(before)
        if previous == version:
            previous = before.previous if before else 0
        state = Stage.CANARY.value if canary and targets else Stage.LIVE.value
        self._windows[model] = window_s or self._pace.window_s
        self._active.pop(model, None)
        self._done.pop(model, None)
        fact = RolloutSet(model, version, previous, selector, canary, state, "", self._world.wall())
        await self._writer.append(fact)
        return {"model": model, "version": version, "state": state, "matching": len(targets), "previous": previous}

    def status(self, model: str) -> dict[str, object]:
        """How far it is. Raises NotFound."""
        fact = self._writer.state.rollouts.get(model)
        if fact is None:
            raise errors.NotFound(f"{model!r} was never rolled out", hint="msrt model rollout")
        done = self._done.get(model)
        active = self._active.get(model)
        through = done is not None and done[0] == fact.version and fact.state == Stage.LIVE.value
        targets = self._fleet.matching(fact.selector)
        ready = sum(
            any(m.model == model and m.version == fact.version and m.state == "ready" for m in seen.device.models)
            for seen in targets
        )
        return {
            "model": model, "version": fact.version, "previous": fact.previous, "canary": fact.canary,
            "selector": fact.selector, "state": Stage.DONE.value if through else fact.state,
            "reason": done[1] if through and done else fact.reason, "ready": ready, "matching": len(targets),
            "watched": active.expected if active else 0,
        }  # fmt: skip

    async def rollback(self, model: str) -> dict[str, object]:
        """Return to the version before. Raises NotFound, Conflict when there is none, DiskFull."""
        fact = self._writer.state.rollouts.get(model)
        if fact is None:
            raise errors.NotFound(f"{model!r} was never rolled out", hint="msrt model list")
        if fact.state == Stage.ROLLED_BACK.value:
            raise errors.Conflict(
                f"{model}@{fact.version} is rolled back already", hint="msrt model rollout another one"
            )
        if not fact.previous:
            raise errors.Conflict(f"{model}@{fact.version} is the first one: there is nothing to return to")
        self._active.pop(model, None)
        if not await self._write(fact, Stage.ROLLED_BACK.value, "by the operator"):
            raise errors.Conflict(f"the rollout of {model} moved on meanwhile", hint="look at it and ask again")
        return {"model": model, "version": fact.previous}


def _serving(fact: RolloutSet | None) -> int:
    """The version that runs where no canary does; 0 for none."""
    if fact is None:
        return 0
    return fact.version if fact.state == Stage.LIVE.value else fact.previous
