"""Updates over the air: campaigns in the journal, each held against what edges report."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final

import msgspec
import structlog

from msrt import errors
from msrt.dispatch.canary import rank
from msrt.hop import Peer
from msrt.journal.facts import UpdateSet
from msrt.journal.updates import FORGOTTEN, group_of
from msrt.journal.writer import Writer
from msrt.protocol import wire
from msrt.world.world import World
from msrt_cloud.fleet import Fleet
from msrt_cloud.rollout import Seen
from msrt_cloud.updates_campaign import Campaign, Move, Seat, Standing, surplus

__all__ = ["UpdateBegin", "UpdateName", "Updates"]

log = structlog.get_logger()
EVERY_S: Final = 0.5
SELDOM: Final = 20
"""One that stands still is looked at in one pass of so many."""
_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class _Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True): ...


class UpdateBegin(_Params, frozen=True):
    """See `msrt update rollout`."""

    name: str
    selector: str = ""
    groups: list[_Share] = msgspec.field(default_factory=lambda: [1.0])
    success: _Share = 0.95
    errors: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    soak_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    deadline_s: Annotated[float, msgspec.Meta(gt=0)] = 3600.0


class UpdateName(_Params, frozen=True):
    """A campaign; empty: all of them."""

    name: str = ""


class Updates:
    """All campaigns of one cloud; `kept` of those that are over stay."""

    def __init__(self, world: World, writer: Writer, fleet: Fleet, kept: int) -> None:
        self._world, self._writer, self._fleet, self._kept = world, writer, fleet, kept
        self._store = world.disk.store("updates")
        self._active: dict[str, Campaign] = {}
        self._untidy = True
        """There may be seats of campaigns that are gone."""

    async def run(self) -> None:
        """Watch for ever."""
        for number in itertools.count():
            for fact in list(self._writer.state.updates.values()):
                if fact.state == Standing.RUNNING or not number % SELDOM:
                    await self._watch(fact)
            if not number % SELDOM:
                await self._tidy()
            await asyncio.sleep(EVERY_S)

    async def _tidy(self) -> None:
        """Forget what is over and replaced, first in the journal; then what became of devices in campaigns that are not
        there, whenever they went: a crash between leaves it for the next time."""
        try:
            for fact in surplus(self._writer.state.updates.values(), self._kept):
                if await self._say(fact, state=FORGOTTEN):
                    self._untidy = True
                    self._active.pop(fact.name, None)
                    log.info("update.forgotten", campaign=fact.name, began=fact.began)
            if self._untidy:
                live = {fact.token for fact in self._writer.state.updates.values()}
                for key in [key for key, _ in self._store.scan() if key.rpartition("/")[0] not in live]:
                    self._store.put(key, None)
                await self._world.offload(self._store.commit)
                self._untidy = False
        except errors.DiskFull as error:
            log.warning("update.not_tidied", error=error.text)

    # --- watching ----------------------------------------------------------------------------------------------------

    async def _watch(self, fact: UpdateSet) -> None:
        if fact.state == Standing.DONE:
            return
        campaign = self._campaign(fact)
        move, changed = campaign.observe(self._targets(fact), self._world.now(), self._world.wall())
        await self._keep(fact, changed)
        if move is not None:
            await self._move(fact, move)

    def _campaign(self, fact: UpdateSet) -> Campaign:
        campaign = self._active.get(fact.name)
        if campaign is None or campaign.fact.token != fact.token:
            stored = self._store.scan(f"{fact.token}/")
            seats = [wire.unpack(value, Seat) for _, value in stored]
            campaign = self._active[fact.name] = Campaign(fact, {seat.node: seat for seat in seats})
        campaign.fact = fact
        return campaign

    async def _keep(self, fact: UpdateSet, seats: list[Seat]) -> None:
        """What became of each device is on disk before the journal says what follows from it."""
        if not seats:
            return
        for seat in seats:
            self._store.put(f"{fact.token}/{seat.node}", wire.pack(seat))
        try:
            await self._world.offload(self._store.commit)
        except errors.DiskFull as error:
            log.warning("update.seats_not_on_disk", campaign=fact.name, error=error.text)

    async def _move(self, fact: UpdateSet, move: Move) -> None:
        log.info("update.moved", campaign=fact.name, group=move.group, state=move.standing.value, reason=move.reason)
        try:
            await self._say(fact, state=move.standing.value, group=move.group, reason=move.reason)
        except errors.DiskFull as error:
            log.warning("update.not_written", campaign=fact.name, error=error.text)

    async def _say(self, fact: UpdateSet, **changes: object) -> bool:
        """Write a campaign's next state, unless something else was said meanwhile; was it? Raises DiskFull."""
        moved = msgspec.structs.replace(fact, wall=self._world.wall(), **changes)
        return await self._writer.replace(fact, moved)

    # --- what operators say ------------------------------------------------------------------------------------------

    async def begin(self, _peer: Peer, p: UpdateBegin) -> object:
        """Begin a campaign. Raises NotFound, CallerError, InvalidAddress."""
        kind, _, version = p.name.partition("@")
        if (kind, version) not in self._writer.state.images:
            raise errors.NotFound(f"no image is named {p.name!r}", hint="msrt update list")
        groups = tuple(p.groups)
        if not groups or list(groups) != sorted(set(groups)) or groups[-1] != 1.0:
            raise errors.CallerError("groups are growing shares, the last one 1", hint="give .05,.25,1")
        wall = self._world.wall()
        fact = UpdateSet(
            p.name, kind, version, p.selector, groups, 0, "", p.success, p.errors, p.soak_s, p.deadline_s,
            began=wall, wall=wall,
        )  # fmt: skip
        targets = self._targets(fact)
        first = min((seen.device.node for seen in targets), key=lambda node: rank(p.name, node), default="")
        fact = msgspec.structs.replace(fact, first=first)
        await self._writer.append(fact)
        self._untidy = True
        return {"name": p.name, "matching": len(targets), "groups": list(groups), "state": fact.state}

    async def pause(self, _peer: Peer, p: UpdateName) -> object:
        """No device begins; what is under way goes on as far as it can without a restart."""
        return await self._turn(p.name, {"running"}, state="paused", reason="by the operator")

    async def resume(self, _peer: Peer, p: UpdateName) -> object:
        """Go on, whatever errors there were until now."""
        fact = self._find(p.name)
        _, wrong, _ = self._campaign(fact).counts()
        return await self._turn(p.name, {"paused", "stopped"}, state="running", reason="", forgiven=wrong)

    async def stop(self, _peer: Peer, p: UpdateName) -> object:
        """Emergency: no device begins, and those that have begun go back."""
        return await self._turn(p.name, {"running", "paused", "done"}, state="stopped", reason="by the operator")

    async def _turn(self, name: str, states: set[str], **changes: object) -> object:
        fact = self._find(name)
        if fact.state not in states:
            raise errors.Conflict(f"{name} is {fact.state}", hint="msrt update status")
        if not await self._say(fact, **changes):
            raise errors.Conflict(f"{name} moved on meanwhile", hint="look at it and ask again")
        return {"name": name, "state": changes["state"]}

    def _find(self, name: str) -> UpdateSet:
        fact = self._writer.state.updates.get(name)
        if fact is None:
            known = ", ".join(sorted(self._writer.state.updates)) or "none"
            raise errors.NotFound(f"no update {name!r} was rolled out", hint=f"there are: {known}")
        return fact

    # --- what can be seen -----------------------------------------------------------------------------------------

    async def status(self, _peer: Peer, p: UpdateName) -> object:
        """Campaigns, newest first; of one that is named its devices as well."""
        facts = [self._find(p.name)] if p.name else list(self._writer.state.updates.values())
        facts.sort(key=lambda fact: -fact.began)
        return [self._row(fact, devices=bool(p.name)) for fact in facts]

    def _row(self, fact: UpdateSet, *, devices: bool) -> dict[str, Any]:
        campaign = self._campaign(fact)
        done, wrong, total = campaign.counts()
        row: dict[str, Any] = {
            "name": fact.name, "state": fact.state, "reason": fact.reason, "group": fact.group + 1,
            "groups": list(fact.groups), "done": done, "errors": wrong, "devices": total, "selector": fact.selector,
            "began": fact.began,
        }  # fmt: skip
        if devices:
            row["nodes"] = list(self._nodes(fact, campaign))
        return row

    def _nodes(self, fact: UpdateSet, campaign: Campaign) -> Iterator[dict[str, Any]]:
        """Every device that it is for: those it has come to with what became of them, then the others."""
        for seat in campaign.seats.values():
            row = msgspec.structs.asdict(seat)
            row["group"] = group_of(fact, seat.node) + 1
            row["state"] = seat.outcome or seat.stage or "pending"
            yield row
        for seen in self._fleet.matching(fact.selector):
            device = seen.device
            if device.node not in campaign.seats:
                said = next((update for update in device.updates if update.kind == fact.kind), None)
                group = group_of(fact, device.node) + 1
                state, reason = "waiting" if self._usable(fact, device.device_class) else "no image", ""
                if said is not None and said.token == fact.token:  # it came when the campaign was over
                    state, reason = said.stage or state, said.reason
                yield {
                    "node": device.node, "name": device.name, "state": state, "group": group, "reason": reason,
                    "version": said.version if said is not None else "",
                }  # fmt: skip

    def _targets(self, fact: UpdateSet) -> list[Seen]:
        """Living devices that it is for. Raises InvalidAddress."""
        return [seen for seen in self._fleet.matching(fact.selector) if self._usable(fact, seen.device.device_class)]

    def _usable(self, fact: UpdateSet, device_class: str) -> bool:
        images = self._writer.state.images.get((fact.kind, fact.version), {})
        return any(fnmatchcase(device_class, classes) for classes in images)
