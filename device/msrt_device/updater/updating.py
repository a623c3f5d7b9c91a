"""How one device comes to another version: ONE table of what leads where. Pure: events in, actions out.

It survives its process: the `Record` is kept on disk before anything is done that follows from it, and a start is an
event like any other. A version is committed only when an edge has welcomed the new agent *and* its models have
answered a self-test; whatever ends the new agent before that brings the old one back, which says so, once.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

import msgspec

from msrt.artifacts.images import Image
from msrt_device.updater.slots import SlotState

__all__ = [
    "RESTING", "TABLE", "Action", "Arm", "Commit", "Disarm", "Fetch", "Keep", "Outcome", "Proposal", "Record",
    "Restart", "Said", "SelfTest", "Stage", "StopWork", "Updating", "Write",
]  # fmt: skip


class Stage(enum.StrEnum):
    """Where an update stands."""

    IDLE = "idle"
    """There was none."""
    FETCHING = "fetching"
    WRITING = "writing"
    """Whole and verified: it goes to the inactive slot, while the device serves."""
    WAITING = "waiting"
    """Written. For a moment when nobody asks anything, and for the maintenance time."""
    STARTING = "starting"
    """Armed: this process ends so that the new one begins."""
    TRIAL = "trial"
    """This is the new one, and has yet to prove itself."""
    LEAVING = "leaving"
    """It did not: this process ends so that the old one begins."""
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Said(enum.Enum):
    """What happened, as the table has it."""

    OFFERED = "another image is offered"
    WITHDRAWN = "the offer is withdrawn"
    FETCHED = "fetched"
    WRITTEN = "written"
    QUIET = "a quiet moment"
    STARTED_NEW = "started on trial"
    IN_FORCE = "started in force"
    STARTED_OLD = "started, the old one again"
    NOT_TRIED = "started, the new one was not tried"
    PROVEN = "welcomed and tested"
    BROKEN = "broken"
    LATE = "too late"


RESTING: Final = frozenset({Stage.IDLE, Stage.DONE, Stage.FAILED, Stage.CANCELLED})
"""Nothing is under way."""
_EARLY: Final = (Stage.FETCHING, Stage.WRITING, Stage.WAITING)
_STARTS: Final = (Said.STARTED_OLD, Said.NOT_TRIED)

TABLE: Final[dict[tuple[Stage, Said], Stage]] = {
    **{(stage, Said.OFFERED): Stage.FETCHING for stage in (*sorted(RESTING), *_EARLY)},
    **{(stage, Said.WITHDRAWN): Stage.CANCELLED for stage in (*_EARLY, Stage.STARTING)},
    **{(stage, said): Stage.FAILED for stage in (*_EARLY, Stage.STARTING) for said in (Said.BROKEN, Said.LATE)},
    **{(stage, said): Stage.FETCHING for stage in _EARLY for said in _STARTS},
    (Stage.FETCHING, Said.FETCHED): Stage.WRITING,
    (Stage.WRITING, Said.WRITTEN): Stage.WAITING,
    (Stage.WAITING, Said.QUIET): Stage.STARTING,
    (Stage.STARTING, Said.STARTED_NEW): Stage.TRIAL,
    (Stage.STARTING, Said.IN_FORCE): Stage.DONE,
    (Stage.STARTING, Said.STARTED_OLD): Stage.FAILED,
    (Stage.STARTING, Said.NOT_TRIED): Stage.FETCHING,
    (Stage.TRIAL, Said.STARTED_NEW): Stage.TRIAL,
    (Stage.TRIAL, Said.IN_FORCE): Stage.DONE,
    (Stage.TRIAL, Said.STARTED_OLD): Stage.FAILED,
    (Stage.TRIAL, Said.NOT_TRIED): Stage.FAILED,
    (Stage.TRIAL, Said.PROVEN): Stage.DONE,
    (Stage.TRIAL, Said.BROKEN): Stage.LEAVING,
    (Stage.TRIAL, Said.LATE): Stage.LEAVING,
    (Stage.TRIAL, Said.WITHDRAWN): Stage.LEAVING,
    (Stage.LEAVING, Said.STARTED_NEW): Stage.LEAVING,
    (Stage.LEAVING, Said.STARTED_OLD): Stage.FAILED,
    (Stage.LEAVING, Said.NOT_TRIED): Stage.FAILED,
}
"""(stage, what happened) -> next stage. What is not here changes nothing."""

MOST_STARTS: Final = 3
"""An image that never came to its trial is tried no more after so many restarts for it."""
AGAIN_S: Final = 30.0
"""A process that is to end, and did not, is told again."""
REMEMBERED: Final = 8
"""Images that failed here, of which it is known."""


@dataclass(frozen=True)
class Proposal:
    """An offer whose signature was checked."""

    image: Image
    token: str
    deadline_s: float
    state: str = "running"
    unfit: str = ""
    """Why it cannot be used here, whatever happens; empty: it can."""


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is on disk of an update."""

    stage: Stage = Stage.IDLE
    image: Image | None = None
    token: str = ""
    base: str = ""
    """The version that it began from."""
    left_s: float = 0.0
    """Seconds to its deadline when this was written."""
    reason: str = ""
    models: tuple[str, ...] = ()
    """NAME@VERSION of those that answered before the restart, and must answer after it."""
    starts: int = 0
    """Restarts for this image."""
    withdrawn: bool = False
    failed: dict[str, str] = {}
    """Digest to reason of images that failed on trial, until another one is in force."""
    told: int = 0
    """Number of the event that tells the outcome; 0: there is none to tell."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of an update: told once."""

    kind: str
    version: str
    base: str
    outcome: str
    """done, failed or cancelled."""
    reason: str
    token: str


# --- actions: performed in order ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keep:
    """On disk before anything else; with the outcome, if there is one to tell."""

    record: Record
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Fetch:
    """Bring it, then say `fetched` or `broken`."""

    image: Image


@dataclass(frozen=True)
class Write:
    """Write it to the inactive slot, then say `written` or `broken`."""

    image: Image


@dataclass(frozen=True)
class StopWork:
    """Give up what was begun by Fetch or Write."""


@dataclass(frozen=True)
class Arm:
    """Of the inactive slot."""


@dataclass(frozen=True)
class Disarm:
    """Take an arming back."""


@dataclass(frozen=True)
class Restart:
    """End this process or system for what is due."""


@dataclass(frozen=True)
class SelfTest:
    """Ask these models, then say `tested`."""

    models: tuple[str, ...]


@dataclass(frozen=True)
class Commit:
    """What runs now is in force; say `broken` when it cannot be."""


Action = Keep | Fetch | Write | StopWork | Arm | Disarm | Restart | SelfTest | Commit


class Updating:
    """The update of one kind of image on one device."""

    def __init__(self, kind: str, record: Record, slots: SlotState, *, trial_s: float) -> None:
        self.kind, self.record, self.slots = kind, record, slots
        self._trial_s = trial_s
        self._trial_ends = self._again = 0.0
        self.until = 0.0
        """When its time is up, by this process's clock: one that counts seconds, whatever time of day a board without a
        battery believes in."""
        self._welcomed = self._tested = False
        self._proposal: Proposal | None = None

    @property
    def paused(self) -> bool:
        return self._proposal is not None and self._proposal.state == "paused"

    # --- events ------------------------------------------------------------------------------------------------------

    def started(self, now: float) -> list[Action]:
        """The process runs, from the slot that `slots` calls active."""
        self._trial_ends, self.until = now + self._trial_s, now + self.record.left_s
        image, record = self.record.image, self.record
        if image is None or record.stage in RESTING:
            return []
        if self.slots.running.digest == image.digest:
            return self._say(Said.STARTED_NEW if self.slots.trial else Said.IN_FORCE, now)
        if self.slots.fallen.digest == image.digest or record.starts >= MOST_STARTS:
            return self._say(Said.STARTED_OLD, now, record.reason or self.slots.why or "it did not stay up")
        return self._say(Said.NOT_TRIED, now, record.reason)

    def offered(self, proposal: Proposal | None, now: float) -> list[Action]:
        """What the edge says that should run: the proposal of this kind, None: nothing."""
        self._proposal = proposal
        return self._look(now)

    def fetched(self, now: float) -> list[Action]:
        return self._say(Said.FETCHED, now)

    def written(self, slots: SlotState, now: float) -> list[Action]:
        self.slots = slots
        return self._say(Said.WRITTEN, now)

    def broken(self, reason: str, now: float) -> list[Action]:
        """What was begun cannot be done, and trying again will not help."""
        return self._say(Said.BROKEN, now, reason)

    def quiet(self, models: tuple[str, ...], now: float) -> list[Action]:
        """Nobody would miss this device for a moment; `models`: those that answer now."""
        if self.paused or self.record.stage is not Stage.WAITING:
            return []
        self.record = msgspec.structs.replace(self.record, models=models, starts=self.record.starts + 1)
        return self._say(Said.QUIET, now)

    def welcomed(self, now: float) -> list[Action]:
        """An edge has taken this process in."""
        self._welcomed = True
        return self._judge(now)

    def tested(self, fault: str, now: float) -> list[Action]:
        """The models answered, or what is wrong with one."""
        if fault:
            return self._say(Said.BROKEN, now, fault)
        self._tested = True
        return self._judge(now)

    def tick(self, now: float) -> list[Action]:
        """Time passes."""
        stage = self.record.stage
        if stage is Stage.TRIAL and now > self._trial_ends:
            missing = "no edge welcomed it" if not self._welcomed else "its self-test did not end"
            return self._say(Said.LATE, now, f"{missing} within {self._trial_s:g} s")
        if stage is Stage.LEAVING and now > self._again:
            self._again = now + AGAIN_S
            return [Disarm(), Restart()]
        if stage in (*_EARLY, Stage.STARTING) and now > self.until:
            why = f"it was still {stage.value} at its deadline"
            return self._say(Said.LATE, now, f"{why} ({self.record.reason})" if self.record.reason else why)
        return []

    def note(self, reason: str) -> None:
        """Why it does not get on just now: something that may pass."""
        self.record = msgspec.structs.replace(self.record, reason=reason)

    # --- what follows ----------------------------------------------------------------------------------------------

    def _judge(self, now: float) -> list[Action]:
        return self._say(Said.PROVEN, now) if self._welcomed and self._tested else []

    def _look(self, now: float) -> list[Action]:
        proposal, record = self._proposal, self.record
        same = proposal is not None and proposal.token == record.token
        if proposal is None or proposal.state == "stopped":
            # Silence may be an edge that is behind: only a clear word ends a trial.
            if record.stage is Stage.TRIAL and not (same and proposal is not None):
                return []
            return self._say(Said.WITHDRAWN, now, "stopped by the operator" if proposal else "no longer offered")
        if proposal.state == "paused" or (same and record.stage is not Stage.CANCELLED):
            return []
        if (record.stage, Said.OFFERED) not in TABLE:
            return []  # on trial, or close to it: looked at again when that is over
        return self._take(proposal, now)

    def _take(self, proposal: Proposal, now: float) -> list[Action]:
        """Another campaign than the last one: is there anything to do, and can it be done?"""
        image, running = proposal.image, self.slots.running
        stop = [] if self.record.stage in RESTING else [StopWork(), *self._rest(Stage.CANCELLED, "another one came")]
        fresh = Record(
            image=image, token=proposal.token, base=running.version, left_s=proposal.deadline_s,
            failed=self.record.failed,
        )  # fmt: skip
        if running.digest == image.digest or (not running.digest and running.version == image.version):
            return [*stop, self._kept(msgspec.structs.replace(fresh, stage=Stage.DONE, reason="it runs already"))]
        before = self.record.failed.get(image.digest, "")
        refused = proposal.unfit or (before and f"it failed here before: {before}")
        if refused:
            return [*stop, self._kept(msgspec.structs.replace(fresh, stage=Stage.FAILED, reason=refused))]
        self.record, self.until = fresh, now + proposal.deadline_s
        return [*stop, *self._enter(Stage.FETCHING)]

    def _say(self, said: Said, now: float, reason: str = "") -> list[Action]:
        stage = self.record.stage
        following = TABLE.get((stage, said))
        if following is None:
            return []
        self._again = now + AGAIN_S
        withdrawn = self.record.withdrawn or said is Said.WITHDRAWN
        self.record = msgspec.structs.replace(self.record, reason=reason, withdrawn=withdrawn)
        if following is Stage.FAILED and withdrawn:
            following = Stage.CANCELLED
        if following not in RESTING:
            stop = [StopWork()] if said is Said.WITHDRAWN else []
            return [*stop, *self._enter(following)]
        before: list[Action] = [Commit()] if following is Stage.DONE else [StopWork(), Disarm()]
        # On trial, or when it could not even be written, the image is at fault; before that perhaps only the way to it.
        guilty = following is Stage.FAILED and said is not Said.LATE and stage is not Stage.FETCHING
        return [*before, *self._rest(following, reason, guilty=guilty), *self._look(now)]

    def _enter(self, stage: Stage) -> list[Action]:
        """Go on: on disk first, then done."""
        self.record = msgspec.structs.replace(self.record, stage=stage)
        image = self.record.image
        assert image is not None
        follows: dict[Stage, list[Action]] = {
            Stage.FETCHING: [Fetch(image)],
            Stage.WRITING: [Write(image)],
            Stage.STARTING: [Arm(), Restart()],
            Stage.TRIAL: [SelfTest(self.record.models)],
            Stage.LEAVING: [Disarm(), Restart()],
        }
        return [self._kept(self.record), *follows.get(stage, [])]

    def _rest(self, stage: Stage, reason: str, *, guilty: bool = False) -> list[Action]:
        """It is over: say what became of it."""
        record = self.record
        image = record.image
        assert image is not None
        failed = dict(record.failed)
        if guilty:
            failed[image.digest] = reason
            failed = dict(list(failed.items())[-REMEMBERED:])
        if stage is Stage.DONE:
            failed = {}
        outcome = Outcome(self.kind, image.version, record.base, stage.value, reason, record.token)
        return [self._kept(msgspec.structs.replace(record, stage=stage, reason=reason, failed=failed), outcome)]

    def _kept(self, record: Record, outcome: Outcome | None = None) -> Keep:
        self.record = record
        return Keep(record, outcome)
