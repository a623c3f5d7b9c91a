"""The last lines of a node's log for whoever asks through its parent: numbered, so that who follows gets each once, and
bounded in bytes, so that an answer fits every link. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from msrt.errors import CallerError

__all__ = ["ANSWER", "log_answer"]

ANSWER: Final = 96 << 10
"""Bytes of lines in one answer."""
LINE: Final = 2000
"""Characters of one."""


def log_answer(tell: Callable[[str], Any], params: Mapping[str, object]) -> list[str] | dict[str, Any]:
    """The answer to a call "logs" for so many `lines`.

    With `after` (the `next` of an earlier answer, and its `run`) only newer ones, and how to go on. A node that has
    started again since counts from its beginning: `run` tells. Raises CallerError.
    """
    wanted, after, run = params.get("lines", 50), params.get("after"), params.get("run", "")
    if not isinstance(wanted, int) or not isinstance(after, int | None):
        raise CallerError("lines are asked for by their number, and perhaps after one")
    lines: list[str] = [line if len(line) <= LINE else line[:LINE] + "..." for line in tell("logs")]
    count, now = tell("logged") or (len(lines), "")
    if after is None:
        return _bounded(lines[-wanted:] if wanted > 0 else [])
    fresh = count if run != now else count - after
    fresh = max(0, min(fresh, wanted, len(lines)))
    return {"lines": _bounded(lines[len(lines) - fresh :]), "next": count, "run": now}


def _bounded(lines: list[str]) -> list[str]:
    """The newest that fit."""
    size, kept = 0, list[str]()
    for line in reversed(lines):
        size += len(line.encode()) + 4
        if size > ANSWER:
            break
        kept.append(line)
    return kept[::-1]
