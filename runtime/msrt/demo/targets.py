"""Who is asked while nodes die: both edges, through the client library."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from msrt import errors
from msrt.demo.http import HttpInfer
from msrt.demo.judge import Answer
from msrt.demo.load import Infer
from msrt.demo.story import MODEL, Story

__all__ = ["both_edges"]


@contextlib.asynccontextmanager
async def both_edges(story: Story) -> AsyncIterator[Infer]:
    """Asks one edge, and the other one when that fails."""
    fronts = [HttpInfer(url, MODEL, story.judge.rows, "input") for url in story.urls.values()]

    async def infer(row: int) -> Answer:
        first, second = fronts[row % 2], fronts[1 - row % 2]
        try:
            return await first(row)
        except (errors.Disconnected, errors.PeerError):
            return await second(row)

    yield infer
    for front in fronts:
        front.close()
