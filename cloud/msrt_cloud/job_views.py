"""What an operator sees of jobs: rows of lists, who is waited for, the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from msrt.errors import JobFailed
from msrt.learning.notes import worst_first
from msrt_cloud.parameters import ParameterJob
from msrt_cloud.triggering import drifted, newest, trigger_of, watches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from msrt.journal.state import Job, State
    from msrt.learning.events import Finish
    from msrt_cloud.job import RunningJob
    from msrt_cloud.open_round import OpenRound
    from msrt_cloud.training import Training

__all__ = ["absent", "judged", "listed", "report", "row", "stragglers", "trigger_row"]

FEW: Final = 16


def row(training: Training, name: str) -> dict[str, Any]:
    """One job as it stands."""
    job, running = training.writer.state.jobs[name], training.running(name)
    created, ended = job.created, job.ended
    reported, expected = running.progress if running and not ended else (0, 0)
    sums, live = training.curves.totals(name), running.live if running and not ended else None
    state = job.state if job.state != "running" or job.round or expected else "queued"
    return {
        "job": name, "state": state, "round": job.round, "rounds": created.config.get("rounds", 20),
        "metrics": dict(job.advanced.metrics) if job.advanced else {}, "reported": reported,
        "expected": expected, "counted": running.counted if running else "nodes",
        "reason": ended.reason if ended else (running.waiting if running else ""),
        "stragglers": stragglers(training, running) if running and not ended else [],
        "bytes_up": sums.bytes_up + (running.bytes_up if running and not ended else 0),
        "bytes_down": sums.bytes_down,
        "seconds": round(sums.seconds, 3), "best": sums.best,
        "worst_decile": sums.last.get("worst_decile") if sums.last.get("round") == job.round else None,
        "failed": _faults(training, live.machine.failed if live else {}, sums.last),
        "by": created.created_by, "created": created.wall, "ended": ended.wall if ended else None,
        "cause": created.cause, "after": created.after,
    }  # fmt: skip


def stragglers(training: Training, running: RunningJob | ParameterJob) -> list[str]:
    """Names of those whose update of the open round is in no hand yet, once they are few."""
    names = training.writer.state.nodes
    if isinstance(running, ParameterJob):
        return sorted(names[node].name if node in names else node for node in running.slowest)[:FEW]
    current = running.live
    if current is None:
        return []
    reported, expected = running.progress
    if not 0 < expected - reported <= FEW:
        return []
    number = current.message.round
    silent = []
    for node in sorted(current.machine.participants - current.machine.here - current.machine.failed.keys()):
        home = training.fleet.home(node)
        said = running.regions.get(home.node) if home is not None else None
        if said is None or said.round != number or node in said.missing:
            silent.append(names[node].name if node in names else node)
    return sorted(silent)[:FEW]


def _faults(training: Training, now: Mapping[str, str], last: dict[str, Any]) -> dict[str, str]:
    """Names of nodes whose process failed in the open round, else in the last one, and what they said."""
    names, found = training.writer.state.nodes, now or last.get("failed") or {}
    shown = sorted((names[node].name if node in names else node, fault) for node, fault in found.items())
    return {name: fault.removeprefix(f"{JobFailed.code}: ") for name, fault in shown[:FEW]}


def absent(current: OpenRound, outcome: Finish, state: State) -> dict[str, Any]:
    """For a round's line: how many participants neither are in it nor failed, and the names of the first of them."""
    away = sorted(current.machine.participants - outcome.included.keys() - outcome.failed.keys())
    names = [state.nodes[node].name if node in state.nodes else node for node in away[:FEW]]
    return {"absent": len(away), "stragglers": names}


def trigger_row(training: Training, job: Job) -> dict[str, Any] | None:
    """How near the next job of its name is; nothing where this one starts none."""
    found = trigger_of(job)
    if found is None or newest(training.writer.state.jobs.values())[str(job.created.config["name"])] is not job:
        return None
    trigger, model = found
    seen, wall = training.tally.of(model), training.world.wall()
    return {
        "model": model, "watches": watches(job) and not job.held,
        "events": seen.events - job.created.events, "of": trigger.events, "drift": trigger.drift,
        "drifted": drifted(trigger, job, seen), "devices": trigger.devices,
        "cooldown_s": max(0.0, job.ended.wall + trigger.cooldown_s - wall) if job.ended else trigger.cooldown_s,
    }  # fmt: skip


def listed(training: Training, states: list[str], name: str, since: float, until: float, limit: int) -> list[Any]:
    """Rows of the newest jobs that are in one of these states, have this in their name and were created then."""
    found = []
    for job in reversed(list(training.writer.state.jobs.values())):
        made = job.created.wall
        if name not in job.created.job or made < since or (until and made >= until):
            continue
        one = row(training, job.created.job)
        if not states or one["state"] in states:
            found.append(one | {"trigger": trigger_row(training, job)})
        if len(found) >= limit:
            break
    return found[::-1]


def judged(training: Training, name: str, after: int, limit: int) -> list[dict[str, Any]]:
    """What nodes said of the model, the worst served first."""
    found, nodes = training.curves.judged(name), training.writer.state.nodes
    return [
        {"name": nodes[node].name if node in nodes else node, "node": node, **msgspec.to_builtins(found[node])}
        for node in worst_first(found)[after : after + limit]
    ]


def report(training: Training, name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Curves, of these lines, and with [baseline] what nodes reach alone and pooled. Raises NotFound."""
    job = training.job(name)
    rounds = [line for line in lines if line["round"] <= job.round]
    end = training.curves.ended(name)
    accuracy = end.get("accuracy") or (rounds[-1]["accuracy"] if rounds else None)
    now = row(training, name)
    return {
        "rounds": rounds, "accuracy": accuracy, "alone_mean": end.get("alone_mean"), "pooled": end.get("pooled"),
        "parameters": end.get("parameters"), "published": end.get("published"), "refused": end.get("refused"),
        "update_bytes_ratio": rounds[-1].get("update_bytes_ratio") if rounds else None,
        "epsilon": now["metrics"].get("epsilon"), "delta": now["metrics"].get("delta"),
        "config": job.created.config, "trigger": trigger_row(training, job),
        **{key: now[key] for key in ("job", "state", "reason", "by", "created", "ended", "cause", "after")},
    }  # fmt: skip
