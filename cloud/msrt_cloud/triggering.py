"""What starts a job again once it is over: new events, or drift, that devices reported of its model.

The newest job of a name watches. `due` decides, pure; `Triggers` looks every second and starts the next one with the
weights that the last finished one ended with. The journal says of each job why it was started and what it started from.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from msrt import errors
from msrt.journal.state import Job, State
from msrt.training.settings import JobConfig, Trigger
from msrt_cloud.tally import Seen

if TYPE_CHECKING:
    from msrt_cloud.training import Training

__all__ = ["FRESH", "Origin", "Triggers", "due", "newest", "trigger_of", "watches"]

log = structlog.get_logger()
LOOK_S: Final = 1.0
NAMES: Final = 5


class Origin(msgspec.Struct, frozen=True):
    """Where a job comes from, beside an operator's wish."""

    cause: str = ""
    """Of the trigger."""
    after: str = ""
    """Job whose weights it starts from."""
    start: str = ""
    """Their digest."""
    spent: str = ""
    """Job that private data were last spent on, where it is another: it failed, and is gone on from by its trigger."""

    def check(self, state: State, name: str) -> None:
        """Raises Conflict where a trigger would start a second job of a name."""
        if self.cause and any(job.ended is None and name_of(job) == name for job in state.jobs.values()):
            raise errors.Conflict(f"a job {name} runs already")


FRESH: Final = Origin()


def name_of(job: Job) -> str:
    """As its job.toml says; the job itself may have got a number behind it."""
    return str(job.created.config.get("name", job.created.job))


def trigger_of(job: Job) -> tuple[Trigger, str] | None:
    """Its [trigger] and the model that it watches."""
    if "trigger" not in job.created.config:
        return None
    config = msgspec.convert(job.created.config, JobConfig)
    return None if config.trigger is None else (config.trigger, config.watched)


def newest(jobs: Iterable[Job]) -> dict[str, Job]:
    """The last job of each name."""
    return {name_of(job): job for job in jobs}


def watches(job: Job) -> bool:
    """Is it over, and may start the next one?"""
    return job.ended is not None and job.ended.state != "stopped" and trigger_of(job) is not None


def due(trigger: Trigger, model: str, job: Job, seen: Seen, wall: float) -> str:
    """Why the job is to be started again now; nothing: it is not."""
    if not watches(job) or job.held or job.ended is None or wall < job.ended.wall + trigger.cooldown_s:
        return ""
    fresh = seen.events - job.created.events
    if trigger.events and fresh >= trigger.events:
        return f"{fresh} new events of {model}"
    far = sorted(drifted(trigger, job, seen))
    if trigger.drift and len(far) >= trigger.devices:
        more = f" and {len(far) - NAMES} more" if len(far) > NAMES else ""
        return f"drift of {model} reported by {', '.join(far[:NAMES])}{more}"
    return ""


def drifted(trigger: Trigger, job: Job, seen: Seen) -> list[str]:
    """Devices whose readings, since the job was created, were too far from those it was trained with."""
    found = seen.drifted.values()
    return [one.name for one in found if one.number > job.created.events and one.drift >= trigger.drift > 0]


def warm(jobs: Iterable[Job], name: str) -> Origin:
    """From the newest job of that name that finished, if there is one."""
    done = [job for job in jobs if name_of(job) == name and job.state == "finished" and job.weights]
    return Origin(after=done[-1].created.job, start=done[-1].weights) if done else FRESH


class Triggers:
    """Of all jobs of `training`."""

    def __init__(self, training: Training) -> None:
        self._training = training

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Start what is due."""
        t = self._training
        for name, job in newest(t.writer.state.jobs.values()).items():
            found = trigger_of(job)
            if found is None:
                continue
            trigger, model = found
            cause = due(trigger, model, job, t.tally.of(model), t.world.wall())
            if cause:
                await self._start(name, job, cause)

    async def _start(self, name: str, job: Job, cause: str) -> None:
        t = self._training
        origin = warm(t.writer.state.jobs.values(), name)
        origin = msgspec.structs.replace(origin, cause=cause, spent=job.created.job)
        try:
            started = await t.create(job.created.bundle, "trigger", origin)
        except errors.Conflict:
            return  # an operator was faster
        except errors.InvalidJob as error:  # it will not do better in a second: its privacy budget is spent, say
            log.warning("job.not_triggered", job=name, cause=cause, error=errors.words_of(error))
            with contextlib.suppress(errors.MsrtError):  # else it is refused, and said, again
                await t.hold(job.created.job, "trigger", held=True)
            return
        except errors.MsrtError as error:
            log.warning("job.not_triggered", job=name, cause=cause, error=errors.words_of(error))
            return
        log.info("job.triggered", job=started, cause=cause, after=origin.after)
