"""Long lists a few rows at a time: nothing else waits for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

__all__ = ["in_turns"]

T = TypeVar("T")
AT_ONCE: Final = 100
"""In one turn of the loop: a row for an operator takes some 10 us to make."""


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """Each of them; the loop's other work comes in between."""
    for number, item in enumerate(items, 1):
        yield item
        if not number % AT_ONCE:
            await asyncio.sleep(0)
