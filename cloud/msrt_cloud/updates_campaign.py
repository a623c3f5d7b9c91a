"""When an update goes on to the next group of devices, and when it must stop. Pure.

As with models (`rollout`), a campaign is desired state in the journal, and this machine only watches what edges report
and says what the journal should say next. Groups with success and error thresholds, as hawkBit's rollouts have them; a
device that is not done in its time counts as an error, so none can hold up the others.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from msrt.journal.updates import UpdateSet, group_of, replaced
from msrt.protocol.messages import DeviceRecord, UpdateState
from msrt_cloud.rollout import Seen

__all__ = ["TABLE", "Campaign", "Move", "Seat", "Standing", "Verdict", "surplus"]

GRACE_S: Final = 30.0
"""What a device says of its own deadline may take so long to come here."""
SILENT_S: Final = 10.0
"""A device that says nothing of updates for so long knows none: one that has just come may only not have spoken yet."""
TOLD: Final = 3
"""Devices whose errors are told in a reason."""


class Standing(enum.StrEnum):
    """How far a campaign is; the values are what the journal says."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    DONE = "done"


class Verdict(enum.Enum):
    """What the devices that it has come to look like together."""

    WAITING = "waiting"
    PASSED = "the group succeeded, and stayed so"
    COMPLETE = "the last group did"
    FAILED = "too many errors"
    STUCK = "too few can succeed"


TABLE: Final[dict[tuple[Standing, Verdict], Standing]] = {
    (Standing.RUNNING, Verdict.PASSED): Standing.RUNNING,
    (Standing.RUNNING, Verdict.COMPLETE): Standing.DONE,
    (Standing.RUNNING, Verdict.FAILED): Standing.STOPPED,
    (Standing.RUNNING, Verdict.STUCK): Standing.STOPPED,
}
"""(standing, verdict) -> next. What is not here stays; an operator pauses, resumes and stops."""


OVER: Final = frozenset({Standing.STOPPED.value, Standing.DONE.value})


def surplus(campaigns: Iterable[UpdateSet], kept: int) -> list[UpdateSet]:
    """Campaigns that are over and say nothing of any device any more, beyond the newest `kept` that are over."""
    known = list(campaigns)
    over = sorted((one for one in known if one.state in OVER), key=lambda one: -one.began)
    return [one for one in over[kept:] if replaced(one, known)]


class Seat(msgspec.Struct, omit_defaults=True):
    """One device of a campaign: kept on disk, so that what became of it is counted once, whatever restarts."""

    node: str
    name: str
    since: float
    """Wall clock of when the campaign had come to it and it was there."""
    outcome: str = ""
    """done, error, or skipped: it cannot be updated like this, and counts for nothing; empty: under way."""
    stage: str = ""
    reason: str = ""
    version: str = ""
    """That it runs."""


@dataclass(frozen=True)
class Move:
    """What the journal should say next."""

    standing: Standing
    group: int
    reason: str


class Campaign:
    """Watches one campaign. `seats` are those of its devices that are known, by node."""

    def __init__(self, fact: UpdateSet, seats: dict[str, Seat]) -> None:
        self.fact, self.seats = fact, seats
        self._good_since: float | None = None

    def observe(self, targets: Sequence[Seen], now: float, wall: float) -> tuple[Move | None, list[Seat]]:
        """Look at the devices that it is for; what should the journal say next, and which seats are to be kept?"""
        changed = [seat for seen in targets if (seat := self._look(seen.device, wall)) is not None]
        for seat in self.seats.values():
            if not seat.outcome and wall - seat.since > self.fact.deadline_s + GRACE_S:
                seat.outcome, seat.reason = "error", f"not done within {self.fact.deadline_s:g} s ({_where(seat)})"
                changed.append(seat)
        verdict, reason = self._judge(bool(targets), now)
        following = TABLE.get((Standing(self.fact.state), verdict))
        if following is None:
            return None, changed
        self._good_since = None
        group = self.fact.group + (verdict is Verdict.PASSED)
        return Move(following, group, reason), changed

    def _look(self, device: DeviceRecord, wall: float) -> Seat | None:
        """A device's seat, if it has changed."""
        fact = self.fact
        if group_of(fact, device.node) > fact.group:
            return None
        seat = self.seats.get(device.node)
        before = () if seat is None else msgspec.structs.astuple(seat)
        if seat is None:
            if fact.state != Standing.RUNNING:
                return None  # nobody begins
            seat = self.seats[device.node] = Seat(device.node, device.name, wall)
        said = next((update for update in device.updates if update.kind == fact.kind), None)
        seat.outcome, seat.stage, seat.reason, seat.version = self._told(seat, said, wall)
        return seat if msgspec.structs.astuple(seat) != before else None

    def _told(self, seat: Seat, said: UpdateState | None, wall: float) -> tuple[str, str, str, str]:
        """Outcome, stage, reason and version of a device by its own word."""
        if said is None:
            if seat.outcome or seat.stage or wall - seat.since < SILENT_S:
                return seat.outcome, seat.stage, seat.reason, seat.version  # it is just starting, perhaps
            return "skipped", "", f"it has no slots for {self.fact.kind} images", ""
        ours = said.token == self.fact.token
        under_way = said.stage in {"trial", "leaving", "starting"}
        if said.version == self.fact.version and not under_way:
            return "done", said.stage if ours else "", "", said.version
        if ours and said.stage in {"failed", "cancelled"}:
            return "error", said.stage, said.reason, said.version
        late = seat.outcome == "error" and not (ours and said.stage)
        return ("error" if late else ""), said.stage if ours else "", seat.reason if late else said.reason, said.version

    # --- together --------------------------------------------------------------------------------------------------

    def counts(self, group: int | None = None) -> tuple[int, int, int]:
        """Done, errors and all that count: of one group, or of those that it has come to."""
        seats = [
            seat
            for seat in self.seats.values()
            if seat.outcome != "skipped" and (group is None or group_of(self.fact, seat.node) == group)
        ]
        done = sum(seat.outcome == "done" for seat in seats)
        return done, sum(seat.outcome == "error" for seat in seats), len(seats)

    def _judge(self, anybody: bool, now: float) -> tuple[Verdict, str]:  # noqa: FBT001 - one of two
        fact = self.fact
        _, errors, total = self.counts()
        if errors > fact.forgiven and errors - fact.forgiven > fact.errors * total:
            return Verdict.FAILED, f"{errors} of {total} devices failed: {self._troubles()}"
        done, wrong, members = self.counts(fact.group)
        last = fact.group == len(fact.groups) - 1
        passed = Verdict.COMPLETE if last else Verdict.PASSED
        if not members:
            # An empty group: nobody's turn, unless nobody at all has been seen yet.
            known = total or (anybody and not fact.group)
            if known and not (last and not total):
                return passed, "nobody is in this group"
            return Verdict.WAITING, ""
        if done >= fact.success * (members - min(wrong, fact.forgiven)):
            self._good_since = now if self._good_since is None else self._good_since
            if now - self._good_since < fact.soak_s:
                return Verdict.WAITING, ""
            if last and done + wrong < members:
                return Verdict.WAITING, ""  # the others of the last group are still at it
            return passed, f"{done} of {members} devices run {fact.version}"
        self._good_since = None
        if done + wrong == members and errors > fact.forgiven:
            return Verdict.STUCK, f"only {done} of {members} devices came to {fact.version}: {self._troubles()}"
        return Verdict.WAITING, ""

    def _troubles(self) -> str:
        bad = [f"{seat.name}: {seat.reason}" for seat in self.seats.values() if seat.outcome == "error"]
        more = f" and {len(bad) - TOLD} more" if len(bad) > TOLD else ""
        return "; ".join(bad[:TOLD]) + more


def _where(seat: Seat) -> str:
    return f"last seen {seat.stage}" if seat.stage else "it never began"
