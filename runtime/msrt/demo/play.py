"""One performance: the chapters in order, the verdict, and no process left behind."""

from __future__ import annotations

import asyncio
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from msrt.demo.http import question
from msrt.demo.kills import kills
from msrt.demo.report import Report
from msrt.demo.story import MODEL, Story
from msrt.demo.targets import both_edges
from msrt.demo.tree import Tree, program
from msrt.operator.show import console, table

__all__ = ["Outcome", "play"]

END_S: Final = 5.0
"""For the chapter that was interrupted to say goodbye."""


@dataclass
class Outcome:
    """How it ended."""

    ok: bool = False
    stopped: bool = False
    report: Report | None = None
    """What was measured, as far as the story came."""


async def play(folder: Path, stop: asyncio.Event, outcome: Outcome, *, keep: bool) -> None:
    """Tell the story until its end, or until told to stop. Raises DemoFailed and what a chapter raises."""
    tree = Tree(folder, keep=keep)
    found = outcome.report = Report()
    story = Story(tree, found)
    told = asyncio.ensure_future(stop.wait())
    telling = asyncio.ensure_future(_tell(story))
    try:
        await asyncio.wait({told, telling}, return_when=asyncio.FIRST_COMPLETED)
        if telling.done():
            telling.result()
        outcome.stopped = not telling.done()
        if not outcome.stopped:
            faults = found.faults()
            found.seconds = round(story.seconds, 1)
            found.ok = outcome.ok = not faults
            _verdict(found, faults)
    finally:
        for task in (telling, told):
            task.cancel()
        await asyncio.wait({telling, told}, timeout=END_S)
        if keep and outcome.ok:
            _play_on(story)
        else:
            await tree.close()


async def _tell(story: Story) -> None:
    await story.build()
    await story.train()
    await story.roll_out()
    await story.serve()
    async with both_edges(story) as infer:
        await kills(story, infer)
    await story.account()


def _verdict(report: Report, faults: list[str]) -> None:
    console().print()
    table(["what", "value", "beside"], report.rows(), empty="")
    if faults:
        console().print("\n[bold red]it did not hold:[/] " + "; ".join(faults))
    else:
        console().print(f"\n[bold green]everything held[/], in {report.seconds:.0f} s")


def _play_on(story: Story) -> None:
    """Commands to paste: not drawn by the console, which would break long lines and read brackets as its own."""
    folder = story.tree.folder
    first, url = story.urls.values()  # the first was killed: the devices are at the other
    beside = program()
    msrt = "msrt" if shutil.which("msrt") == beside else shlex.quote(beside)
    state = f"--state {shlex.quote(str(story.tree.state('cloud')))}"
    asked = folder / "question.json"
    asked.write_bytes(question("input", story.judge.rows[0]))
    click.echo(f"""
The tree runs on. Play with it:
  {msrt} status {state}
  {msrt} node list {state}
  {msrt} model show {MODEL} {state}
  {msrt} infer {MODEL} {shlex.quote(str(asked))} {state}
  curl --data @{shlex.quote(str(asked))} {url}/v2/models/{MODEL}/infer
  curl {first}/metrics
  {msrt} events follow --since 0 {state}
  {msrt} train run {shlex.quote(str(story.job))} --watch {state}
End it with:
  kill {" ".join(map(str, story.tree.pids()))}
and remove {folder}""")
