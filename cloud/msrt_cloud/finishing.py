"""A job's two ends. Before the first round: its weights. After the last one: judge, compare with nodes alone, and hand
the model to the registry and the fleet.

What was found is kept step by step: a model that the gate refuses has its evaluation in the report all the same, and
one that was registered before the cloud died is not registered twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.journal.facts import JobCreated
from msrt.learning.control import parts
from msrt.learning.vector import peek
from msrt.training.settings import JobConfig, Publish
from msrt.training.task import Node
from msrt.training.trainer import Workshop
from msrt_cloud.publish import publish

if TYPE_CHECKING:
    from msrt_cloud.training import Training

__all__ = ["finish", "first_weights"]

log = structlog.get_logger()
WORK_S: Final = 300.0
"""For one piece of the workshop's work; baselines are one for each node, and one for all."""


async def first_weights(training: Training, created: JobCreated, workshop: Workshop, say: Callable[[str], None]) -> str:
    """The task's own, or those of another job of the same model: their digest. Raises InvalidJob, JobFailed."""
    say("making the first weights")
    fresh, start = await workshop.initial(WORK_S), created.start
    if start and peek(await training.artifacts.read(start))[0] != peek(fresh)[0]:
        raise errors.InvalidJob(f"the weights of {created.after} are those of another model")
    return start or await training.artifacts.put_bytes(fresh)


async def finish(
    training: Training, job: str, config: JobConfig, workshop: Workshop, data: Buffer, nodes: Sequence[Node],
    say: Callable[[str], None],
) -> str:  # fmt: skip
    """`nodes` took part in the last round, none where that is not known any more; `say` tells what is being done. What
    is missing of the report, in words. Raises JobFailed.
    """
    await training.curves.end(job, parameters=parts(peek(data)[0])[0].size)
    missing = ""
    wanted = config.baseline is not None and "pooled" not in training.curves.ended(job)
    if wanted and not nodes:
        missing = "trained, and its baselines were not measured: the cloud was started again after the last round"
    elif wanted:
        say("measuring the baselines")
        try:
            await _compare(training, job, config, workshop, data, nodes)
        except errors.JobFailed as error:  # the rounds are worth as much without
            missing = f"trained, and its baselines were not measured: {error.text}"
            log.warning("job.baselines_failed", job=job, error=error.text)
    if config.publish is not None:
        await _hand_over(training, job, config.publish, workshop, data, say)
    return missing


async def _compare(
    training: Training, job: str, config: JobConfig, workshop: Workshop, data: Buffer, nodes: Sequence[Node]
) -> None:
    """With nodes alone and with pooled data. Raises JobFailed."""
    base = await workshop.baseline(nodes, WORK_S * (len(nodes) + 1))
    await training.curves.end(job, alone_mean=base.alone_mean, pooled=base.pooled)
    if not config.train.keep_local:  # else each node has a model of its own, judged in each round
        judged = await workshop.evaluate(data, nodes, WORK_S)
        await training.curves.end(job, accuracy=judged.metrics.get("accuracy"))


async def _hand_over(
    training: Training, job: str, wanted: Publish, workshop: Workshop, data: Buffer, say: Callable[[str], None]
) -> None:
    """The model to the registry and the fleet. Raises JobFailed."""
    curves = training.curves
    try:
        if "published" not in curves.ended(job):
            say("publishing")
            await curves.end(job, published=await publish(training, workshop, wanted, data))
        if wanted.rollout:
            say("rolling out")
            version = int(curves.ended(job)["published"]["version"])
            await training.rollouts.begin(wanted.model, version, wanted.canary, wanted.to, 0.0)
    except errors.DiskFull:
        raise
    except errors.MsrtError as error:
        await curves.end(job, refused={"code": error.code, "text": error.text})
        done = "not rolled out" if "published" in curves.ended(job) else "not published"
        raise errors.JobFailed(f"trained, and {done}: {error.text}", hint=error.hint) from error
