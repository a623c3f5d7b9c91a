"""The last chapters: a device, an edge and the cloud die under load, and nobody who asks notices."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from msrt.demo.load import Infer, Tally, drive
from msrt.demo.story import DEVICES, MODEL, Story

__all__ = ["kills"]

WORKERS: Final = 8
PAUSE_S: Final = 0.01
BEFORE_S: Final = 1.0
AFTER_S: Final = 3.0
BACK_S: Final = 20.0
TARGETS: Final = {"device": "camera", "edge": "edge-north", "cloud": "cloud"}


async def kills(story: Story, infer: Infer) -> None:
    """SIGKILL each tier's node in turn while requests run; start it again; wait until the tree is whole."""
    for tier, name in TARGETS.items():
        await _kill(story, infer, tier, name)


async def _kill(story: Story, infer: Infer, tier: str, name: str) -> None:
    story.say(f"[bold]kill -9[/] the {tier} {name}, under load of the client library")
    tally, stop = Tally(), asyncio.Event()
    load = asyncio.ensure_future(drive(infer, story.judge, tally, stop, workers=WORKERS, pause_s=PAUSE_S))
    try:
        await asyncio.sleep(BEFORE_S)
        await story.tree.kill(name)
        await asyncio.sleep(AFTER_S)
        await story.tree.restart(name)
        await story.tree.ready(name)
        await story.wait("the whole tree", whole, BACK_S)
        await asyncio.sleep(0.5)
    finally:
        stop.set()
        await asyncio.wait([load])
    load.result()
    story.report.survived(tier, tally)
    story.say(
        f"{tally.requests} requests, {tally.failed} failed, {tally.wrong} wrong, "
        f"longest gap {tally.longest_gap_ms:.0f} ms; {name} is back"
    )
    story.explain(tally)


def whole(status: dict[str, Any]) -> bool:
    """Both edges and all devices are up, and every device serves."""
    living = [d for e in status["edges"] if e["alive"] for d in e["devices"] if d["alive"]]
    serving = [d for d in living if any(m["model"] == MODEL and m["state"] == "ready" for m in d["models"])]
    return {d["name"] for d in serving} == set(DEVICES) and all(e["alive"] for e in status["edges"])
