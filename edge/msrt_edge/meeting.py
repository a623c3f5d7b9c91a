"""Where devices that train as one group find each other: see `msrt.training.cluster.meeting`. Nothing of it is kept:
an edge that restarted seats them anew when they ask again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from msrt import errors
from msrt.hop import Peer
from msrt.journal.state import State
from msrt.training.cluster.meeting import Meet, Meeting

__all__ = ["Meetings"]

MOST = 1024
"""Nodes of a group."""


class Meetings:
    """The groups of all jobs that are open."""

    def __init__(self, state: Callable[[], State]) -> None:
        self._state, self._meeting = state, Meeting()

    def meet(self, peer: Peer, params: dict[str, object]) -> dict[str, Any]:
        """A device's question. Raises CallerError, NotFound where no such job is open."""
        try:
            word = msgspec.convert({key: value for key, value in params.items() if key != "_call"}, Meet)
        except msgspec.ValidationError as error:
            raise errors.CallerError(f"cluster.meet: {error}") from None
        job = self._state().jobs.get(word.job)
        if job is None or job.ended is not None:
            raise errors.NotFound(f"no job {word.job!r} is open")
        if not 1 < word.nodes <= MOST:
            raise errors.CallerError(f"a group of {word.nodes} nodes", hint=f"2 to {MOST}")
        found: dict[str, Any] = msgspec.to_builtins(self._meeting.meet(peer.node, word))
        return found

    def left(self, node: str) -> None:
        """A device is gone for good, or for long."""
        self._meeting.left(node)
