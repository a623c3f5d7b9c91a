"""What is left of a stream that is over: its last word, for a peer that did not hear it."""

from __future__ import annotations

from typing import Final

from msrt.protocol import stream as s
from msrt.protocol.messages import StreamCancel, StreamDone
from msrt.world.world import World

__all__ = ["LINGER_S", "Ended"]

LINGER_S: Final = s.DEFAULT_PATIENCE_S + 5.0
"""How long the other half may go on asking, and some more."""


class Ended:
    """The streams of one peer that are over, of one direction."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._words: dict[int, tuple[float, StreamCancel | StreamDone | None]] = {}
        """Stream to when it may be forgotten and its last word; the oldest come first."""

    def add(self, stream: int, word: StreamCancel | StreamDone | None) -> None:
        """None: it was the peer that had the last word."""
        now = self._world.now()
        while self._words and next(iter(self._words.values()))[0] <= now:
            del self._words[next(iter(self._words))]
        self._words[stream] = (now + LINGER_S, word)

    def __contains__(self, stream: int) -> bool:
        return stream in self._words

    def word(self, stream: int) -> StreamCancel | StreamDone | None:
        """What to repeat to whatever still comes of it."""
        return self._words[stream][1]

    def clear(self) -> None:
        """The session is void: streams are numbered anew."""
        self._words.clear()
