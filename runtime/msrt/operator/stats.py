"""`msrt model stats`: how models are served, as the edges tell the cloud."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import click

from msrt.operator.session import Ask, ask, patient, state_option
from msrt.operator.show import json_option, print_json, table
from msrt.protocol.address import ModelName

__all__ = ["stats"]

EVERY_S: Final = 2.0
"""As often as edges report."""
COLUMNS: Final = (
    "model", "version", "region", "per_s", "errors", "p50_ms", "p99_ms", "queue_ms", "compute_ms", "batch",
    "cache_hits", "escalated", "elsewhere", "copies", "disagree",
)  # fmt: skip
OPTIONAL: Final = frozenset({"cache_hits", "escalated", "elsewhere", "copies", "disagree"})
"""Columns that are shown where there is something to say."""
EMPTY: Final = "no requests yet: edges report every two seconds"


@click.command()
@click.argument("name", default="")
@click.option("--watch", is_flag=True, help="Again every two seconds, until stopped.")
@json_option
@state_option
def stats(state: Path | None, name: str, *, as_json: bool, watch: bool) -> None:
    """Requests, errors, times and shares of NAME's versions, or of all models, by region.

    Rates, times, batch and shares are of the last ten seconds (where there was nothing, since the edges started);
    errors are counted since then. Queue is all of a request's time that is not computing. Cache hits, escalated (rows
    that a cascade sent up) and elsewhere (answered by another region) are shares; copies are those for a shadow.
    """
    model = ModelName.parse(name).name if name else ""

    async def work(cloud: Ask) -> None:
        while True:
            rows = await patient(cloud, "model.stats", model=model)
            if watch and not as_json:
                click.clear()
            _show(rows, as_json=as_json)
            if not watch:
                return
            await asyncio.sleep(EVERY_S)

    ask(state, work)


def _show(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    columns = [c for c in COLUMNS if c not in OPTIONAL or any(row.get(c) is not None for row in rows)]
    table(columns, (_marked(row) for row in rows), empty=EMPTY)


def _marked(row: dict[str, Any]) -> dict[str, Any]:
    shares = {name: f"{row[name]:.1%}" for name in OPTIONAL - {"copies"} if row.get(name) is not None}
    return {**row, **shares, "version": f"{row['version']} canary" if row.get("canary") else row["version"]}
