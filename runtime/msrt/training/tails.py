"""The last lines that jobs' processes printed on this node, numbered, so that who follows them gets each once.

They outlive the process and the job: what a task said last is asked for after it died. They do not outlive the node's.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any, Final

from msrt.errors import CallerError, NotFound

__all__ = ["Tail", "Tails"]

LINES: Final = 400
LINE: Final = 500
"""Characters kept of one."""
JOBS: Final = 16
ANSWER: Final = 200
"""Lines in one answer: 200 of 500 characters fit every link."""


class Tail:
    """Of one job."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=LINES)
        self.count = 0
        """Lines ever; the number of the newest."""

    def add(self, line: str) -> None:
        self.count += 1
        self._lines.append(line[:LINE])

    def after(self, number: int, most: int) -> list[str]:
        """The newest lines whose number is higher, at most so many."""
        wanted = max(0, min(self.count - number, most, len(self._lines)))
        return list(self._lines)[len(self._lines) - wanted :]


class Tails:
    """Of the jobs that ran here last."""

    def __init__(self) -> None:
        self._tails: OrderedDict[str, Tail] = OrderedDict()

    def of(self, job: str) -> Tail:
        """The job's, made at need; the job that was asked for longest ago goes first."""
        tail = self._tails.setdefault(job, Tail())
        self._tails.move_to_end(job)
        while len(self._tails) > JOBS:
            self._tails.popitem(last=False)
        return tail

    def told(self, params: Mapping[str, object]) -> dict[str, Any]:
        """The answer to a call for a job's `lines` after the number `after`. Raises CallerError, NotFound."""
        job, after, lines = params.get("job"), params.get("after", 0), params.get("lines", ANSWER)
        if not isinstance(job, str) or not isinstance(after, int) or not isinstance(lines, int):
            raise CallerError("the lines of a job are asked for by its name, and perhaps from a number on")
        tail = self._tails.get(job)
        if tail is None:
            raise NotFound(f"no process of {job} ran here since this node started")
        return {"lines": tail.after(after, max(0, min(lines, ANSWER))), "next": tail.count}
