"""How a job's model serves single nodes: `msrt train status JOB --nodes`, and the list `nodes` of a report."""

from __future__ import annotations

from typing import Any, Final

from msrt.operator.session import Ask
from msrt.operator.show import console, table

__all__ = ["nodes_of", "report_of", "show_nodes"]

PART: Final = 1000
SHOWN: Final = 20


async def nodes_of(cloud: Ask, job: str) -> list[dict[str, Any]]:
    """What each node said of the model when it last took part, the worst served first."""
    found: list[dict[str, Any]] = []
    while True:
        part = await cloud("train.nodes", job=job, after=len(found), limit=PART)
        found += part
        if len(part) < PART:
            return found


async def report_of(cloud: Ask, job: str) -> dict[str, Any]:
    """The whole report: of rounds, and of nodes."""
    return {**await cloud("train.report", job=job), "nodes": await nodes_of(cloud, job)}


def show_nodes(nodes: list[dict[str, Any]]) -> None:
    """The worst served ones as a table, and how many there are."""
    columns = ["name", "accuracy", "loss", "samples", "seconds", "round"]
    columns += ["epsilon"] if any(row.get("epsilon") is not None for row in nodes) else []
    table(columns, nodes[:SHOWN], empty="no node said anything yet")
    if len(nodes) > SHOWN:
        console().print(f"and {len(nodes) - SHOWN} better served ones: --json, or --report FILE")
