"""What a person, or a program, sees while a medium is written: how much, how fast, how long still."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Final, Protocol

import click
import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from msrt.operator.show import console

__all__ = ["Report", "report", "size"]

EVERY_S: Final = 0.5
BYTES: Final = ("write", "verify", "pack")
"""Stages that count bytes; others count steps, or boards."""
WORDS: Final = {"write": "written", "verify": "verified", "build": "built", "pack": "packed"}


def size(count: int) -> str:
    """Bytes, for people."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


class Report(Protocol):
    """Takes progress as it comes, and the result once."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """`total` is 0 where it is not known yet."""

    def result(self, sentence: str, **facts: Any) -> None:
        """For people the sentence, for programs the facts."""


@contextlib.contextmanager
def report(*, as_json: bool) -> Iterator[Report]:
    """JSON lines, bars on a terminal, or a line a stage."""
    if as_json:
        yield _Lines()
        return
    if not console().is_terminal:
        told = _Stages()
        yield told
        told.end()
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    # What is asked meanwhile is not theirs to print: they would take [y/N] for markup.
    bars = Progress(*columns, console=Console(stderr=True), redirect_stdout=False, redirect_stderr=False)
    try:
        yield _Bars(bars)
    finally:
        bars.stop()


def _now() -> float:
    return time.monotonic()  # noqa: TID251 - a command in the foreground: nothing is simulated here


class _Pace:
    """Bytes a second of one stage."""

    def __init__(self) -> None:
        self.began = _now()
        self.said = 0.0

    def facts(self, done: int, total: int) -> dict[str, float]:
        seconds = max(_now() - self.began, 1e-6)
        rate = done / seconds
        return {
            "mb_s": round(rate / 1e6, 1),
            "eta_s": round((total - done) / rate, 1) if total > done and rate else 0.0,
        }


class _Lines:
    """One JSON object a line on standard output; the last one is the result."""

    def __init__(self) -> None:
        self._paces: dict[str, _Pace] = {}

    def progress(self, stage: str, done: int, total: int) -> None:
        pace = self._paces.setdefault(stage, _Pace())
        if done == total or _now() - pace.said >= EVERY_S:
            pace.said = _now()
            self._say({"stage": stage, "done": done, "total": total, **pace.facts(done, total)})

    def result(self, sentence: str, **facts: Any) -> None:  # noqa: ARG002
        self._say({"stage": "done", **facts})

    @staticmethod
    def _say(facts: dict[str, Any]) -> None:
        click.echo(msgspec.json.encode(facts).decode())


class _Stages:
    """A line on standard error when a stage ends: for logs."""

    def __init__(self) -> None:
        self._stage, self._done, self._pace = "", 0, _Pace()

    def progress(self, stage: str, done: int, total: int) -> None:  # noqa: ARG002
        if stage != self._stage:
            self.end()
            self._stage, self._pace = stage, _Pace()
        self._done = done

    def end(self) -> None:
        if self._stage:
            rate = self._pace.facts(self._done, self._done)["mb_s"]
            word = WORDS.get(self._stage, self._stage)
            said = f"{size(self._done)} at {rate:g} MB/s" if self._stage in BYTES else f"{self._done}"
            click.echo(f"{word} {said}", err=True)
        self._stage = ""

    def result(self, sentence: str, **facts: Any) -> None:  # noqa: ARG002
        self.end()
        click.echo(sentence)


class _Bars:
    """A bar a stage, from the first progress on: before it somebody may be asked."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def progress(self, stage: str, done: int, total: int) -> None:
        self._bars.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(WORDS.get(stage, stage), total=total or None)
        self._bars.update(self._tasks[stage], completed=done, total=total or None)

    def result(self, sentence: str, **facts: Any) -> None:  # noqa: ARG002
        self._bars.stop()
        click.echo(sentence)
