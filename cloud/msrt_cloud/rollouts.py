"""The shell of rollouts: holds each one against what the edges report, and writes what follows into the journal."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
import structlog

from msrt import errors
from msrt.dispatch.canary import is_canary, parse_canary
from msrt.inference.bundle import MCU, MICRO, Manifest
from msrt.journal.facts import Entry, Key, RolloutSet
from msrt.journal.rollouts import board_follows, versions_for
from msrt.journal.state import State
from msrt.journal.writer import Writer
from msrt.protocol import wire
from msrt.world.world import World
from msrt_cloud.evidence import Bounds, Evidence
from msrt_cloud.fleet import Fleet
from msrt_cloud.rollout import Decision, Pace, Rollout, Seen, Stage
from msrt_cloud.served import Served

__all__ = ["Rollouts"]

log = structlog.get_logger()
EVERY_S = 0.25
WITHDRAWN = "withdrawn"
OVER = frozenset({Stage.ROLLED_BACK.value, WITHDRAWN})
"""States that nothing but an operator changes."""


class Rollouts:
    """All rollouts of one cloud. What the journal says survives; the clocks begin again after a restart."""

    def __init__(self, world: World, writer: Writer, fleet: Fleet, pace: Pace, served: Served, bounds: Bounds) -> None:
        self._world, self._writer, self._fleet, self._pace = world, writer, fleet, pace
        self._served, self._bounds = served, bounds
        self._active: dict[Key, Rollout] = {}
        self._windows: dict[Key, float] = {}
        self._done: dict[Key, tuple[int, str]] = {}
        """(version, reason) of a rollout that is through."""
        self._able_to: dict[tuple[str, int], tuple[bool, str]] = {}
        """Version to whether microcontrollers can run it, and the one device that may, where it is one's own."""

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            state = self._writer.state
            for fact in [*state.rollouts.values(), *state.regional.values()]:
                await self._watch(fact)
            await asyncio.sleep(EVERY_S)

    async def _watch(self, fact: RolloutSet) -> None:
        if fact.state in OVER or self._done.get(fact.key, (0, ""))[0] == fact.version:
            return
        now = self._world.now()
        active = self._active.get(fact.key)
        if active is None or active.version != fact.version:
            pace = replace(self._pace, window_s=self._windows.get(fact.key, self._pace.window_s))
            stage = Stage(fact.state)
            evidence = Evidence(fact.version, fact.previous, self._bounds) if stage is Stage.CANARY else None
            active = Rollout(
                fact.model, fact.version, fact.canary, stage, pace=pace, now=now,
                evidence=evidence if fact.previous else None, traffic=fact.traffic,
            )  # fmt: skip
            self._active[fact.key] = active
        if active.evidence is not None and active.stage is Stage.CANARY:
            policy = self._writer.state.policies.get(fact.model)
            shadowed = policy is not None and policy.shadow == fact.version
            active.evidence.look(self._served.totals(fact.model, fact.version, fact.previous), shadowed=shadowed)
        decision = active.observe(self._targets(fact), now)
        if decision is not None:
            await self._decided(fact, decision)

    def _targets(self, fact: RolloutSet) -> list[Seen]:
        """Living devices that it speaks of: of a region that has a rollout of its own, only that one does."""
        found = self._able(fact.model, fact.version, self._fleet.matching(fact.selector))
        if fact.region:
            found = [seen for seen in found if seen.region == fact.region]
        else:
            regional = self._writer.state.regional
            found = [seen for seen in found if (seen.region, fact.model) not in regional]
        boards = [seen for seen in found if seen.device.device_class == MCU]
        away = {seen.device.node for seen in boards} - {seen.device.node for seen in self._boards(fact, boards)}
        return [seen for seen in found if seen.device.node not in away]

    def _boards(self, fact: RolloutSet, boards: list[Seen]) -> list[Seen]:
        """Of these microcontrollers, which it matches, those that it has: each holds one model."""
        for other in self._rivals(fact, {seen.region for seen in boards}):
            if board_follows((fact, other)) is other:
                taken = {seen.device.node for seen in self._asked(other)}
                boards = [seen for seen in boards if seen.device.node not in taken]
        return boards

    def _rivals(self, fact: RolloutSet, regions: set[str]) -> list[RolloutSet]:
        """Rollouts of other models that microcontrollers in these regions can run."""
        state = self._writer.state
        found = {other.key: other for region in regions for other in state.rollouts_in(region).values()}
        return [other for other in found.values() if other.model != fact.model and self._runs(other)]

    def _runs(self, fact: RolloutSet) -> bool:
        return any(self._on_boards(fact.model, version) for version in (fact.version, fact.previous) if version)

    def _asked(self, fact: RolloutSet) -> list[Seen]:
        """The microcontrollers of which a rollout asks something."""
        return [
            seen
            for seen in self._fleet.matching(fact.selector)
            if seen.device.device_class == MCU
            and fact.region in ("", seen.region)
            and versions_for(fact, seen.region, seen.device.node)
        ]

    def _able(self, model: str, version: int, found: list[Seen]) -> list[Seen]:
        """Those that can run it; the others are not asked to."""
        micro, home = self._needs(model, version)
        if home:
            found = [seen for seen in found if seen.device.node == home]
        return found if micro else [seen for seen in found if seen.device.device_class != MCU]

    def _on_boards(self, model: str, version: int) -> bool:
        micro, home = self._needs(model, version)
        return micro and not home

    def _needs(self, model: str, version: int) -> tuple[bool, str]:
        """Can microcontrollers run it? And the one node that it is for, if it is for one."""
        known = self._able_to.get((model, version))
        if known is None:
            pushed = self._writer.state.models.get(model, {}).get(version)
            if pushed is None:
                return False, ""
            manifest = wire.unpack(pushed.manifest, Manifest)
            known = self._able_to[model, version] = MICRO in manifest.variants, manifest.home
        return known

    async def _decided(self, fact: RolloutSet, decision: Decision) -> None:
        log.info(
            "rollout.decided",
            model=fact.model,
            version=fact.version,
            stage=decision.stage.value,
            reason=decision.reason,
        )
        if decision.stage is Stage.DONE:
            self._done[fact.key] = (fact.version, decision.reason)
            return
        try:
            if not await self._write(fact, decision.stage.value, decision.reason):
                self._active.pop(fact.key, None)
        except errors.DiskFull as error:
            self._active.pop(fact.key, None)
            log.warning("rollout.not_written", model=fact.model, error=error.text)

    async def _write(self, fact: RolloutSet, state: str, reason: str) -> bool:
        """Move a rollout on, unless another one took its place meanwhile; did it? Raises DiskFull."""
        moved = msgspec.structs.replace(fact, state=state, reason=reason, wall=self._world.wall())
        return await self._writer.replace(fact, moved)

    async def begin(
        self, model: str, version: int, canary: str, selector: str, window_s: float, region: str = "",
        traffic: float = 0.0,
    ) -> dict[str, object]:  # fmt: skip
        """Write down that a version should run: in this region, whatever the tree does, or in the tree, where it then
        holds for regions that were apart as well. Raises NotFound, InvalidAddress."""
        versions = self._writer.state.models.get(model)
        if not versions:
            raise errors.NotFound(f"no model is named {model!r}", hint="msrt model list")
        version = version or max(versions)
        if version not in versions:
            known = ", ".join(map(str, sorted(versions)))
            raise errors.NotFound(f"{model} has no version {version}", hint=f"it has {known}")
        canary = canary or ("100%" if traffic else "")
        first, share = parse_canary(canary)
        targets = self._fleet.matching(selector)
        if region:
            targets = [seen for seen in targets if seen.region == region]
        able = self._able(model, version, targets)
        if targets and not able:
            why = versions[version].report.get("micro") or "it was pushed before there were variants for them"
            raise errors.InvalidModel(f"all devices that match are microcontrollers, and of {model}@{version} {why}")
        targets = able
        if first and not any(seen.region == first for seen in targets) and targets:
            raise errors.NotFound(f"no matching device is in the region {first!r}", hint="msrt node list")
        if share and targets and not any(is_canary(canary, s.region, s.device.node, model) for s in targets):
            canary = f"node:{min(s.device.node for s in targets)}"
        before = self._writer.state.rollouts_in(region).get(model)
        previous = _serving(before)
        if previous == version:
            previous = before.previous if before else 0
        if traffic and not previous:
            canary = ""  # the first one: there is nothing that could answer the other requests
        state = Stage.CANARY.value if canary and targets else Stage.LIVE.value
        share = traffic if state == Stage.CANARY.value else 0.0
        wall = self._world.wall()
        fact = RolloutSet(model, version, previous, selector, canary, state, "", wall, region, share, wall)
        self._windows[fact.key] = window_s or self._pace.window_s
        self._active.pop(fact.key, None)
        self._done.pop(fact.key, None)
        await self._writer.decide(lambda now: [fact, *([] if region else self._ended(now, model))])
        return {
            "model": model, "version": version, "state": state, "matching": len(self._targets(fact)),
            "previous": previous, "boards": self._of_boards(fact, able),
        }  # fmt: skip

    def _of_boards(self, fact: RolloutSet, found: list[Seen]) -> dict[str, list[str]]:
        """Models that microcontrollers let go of for this one, and those that keep them from it, by name."""
        boards = [seen for seen in found if seen.device.device_class == MCU]
        nodes = {seen.device.node for seen in boards}
        out: dict[str, list[str]] = {"replaced": [], "kept": []}
        for other in self._rivals(fact, {seen.region for seen in boards}):
            if nodes & {seen.device.node for seen in self._asked(other)}:
                out["kept" if board_follows((fact, other)) is other else "replaced"].append(other.model)
        return {key: sorted(set(names)) for key, names in out.items()}

    async def withdraw(self, model: str, region: str = "") -> dict[str, object]:
        """Write down that no version should run there, until it is rolled out again: a promotion or a rollback that was
        on its way changes nothing any more. Raises NotFound, DiskFull."""
        if model not in self._writer.state.models:
            raise errors.NotFound(f"no model is named {model!r}", hint="msrt model list")
        wall = self._world.wall()

        def decide(now: State) -> list[Entry]:
            fact = now.rollouts_in(region).get(model)
            ended = [] if region else self._ended(now, model)
            if fact is None:
                return [*ended]  # nothing runs: asking twice is no fault
            gone = msgspec.structs.replace(fact, canary="", state=WITHDRAWN, reason="", wall=wall, region=region)
            return [gone, *ended]

        written = await self._writer.decide(decide)
        for key in [key for key in self._active if key[1] == model and region in ("", *key[2:])]:
            del self._active[key]
        return {"model": model, "region": region, "withdrawn": bool(written)}

    def _ended(self, now: State, model: str) -> list[RolloutSet]:
        """The end of all that regions had of their own."""
        return [
            RolloutSet(model, fact.version, state="ended", wall=self._world.wall(), region=region)
            for (region, name), fact in now.regional.items()
            if name == model
        ]

    def status(self, model: str) -> dict[str, object]:
        """How far it is. Raises NotFound."""
        fact = self._writer.state.rollouts.get(model)
        if fact is None:
            raise errors.NotFound(f"{model!r} was never rolled out", hint="msrt model rollout")
        done = self._done.get(fact.key)
        active = self._active.get(fact.key)
        through = done is not None and done[0] == fact.version and fact.state == Stage.LIVE.value
        targets = self._targets(fact)
        ready = sum(
            any(m.model == model and m.version == fact.version and m.state == "ready" for m in seen.device.models)
            for seen in targets
        )
        return {
            "model": model, "version": fact.version, "previous": fact.previous, "canary": fact.canary,
            "selector": fact.selector, "state": Stage.DONE.value if through else fact.state,
            "reason": done[1] if through and done else fact.reason, "ready": ready, "matching": len(targets),
            "watched": active.expected if active else 0, "traffic": fact.traffic,
            "troubles": active.troubles if active else [],
            "evidence": active.evidence.rows() if active and active.evidence else [],
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
        if fact.state == WITHDRAWN:
            raise errors.Conflict(f"{model} is withdrawn", hint="msrt model rollout brings it back")
        if not fact.previous:
            raise errors.Conflict(f"{model}@{fact.version} is the first one: there is nothing to return to")
        self._active.pop(fact.key, None)
        if not await self._write(fact, Stage.ROLLED_BACK.value, "by the operator"):
            raise errors.Conflict(f"the rollout of {model} moved on meanwhile", hint="look at it and ask again")
        return {"model": model, "version": fact.previous}


def _serving(fact: RolloutSet | None) -> int:
    """The version that runs where no canary does; 0 for none."""
    if fact is None or fact.state == WITHDRAWN:
        return 0
    return fact.version if fact.state == Stage.LIVE.value else fact.previous
