"""Long lists leave the loop to others."""

from __future__ import annotations

import asyncio

from msrt_cloud.turns import AT_ONCE, in_turns


def test_others_get_their_turn_between_some_rows_and_the_next():
    """All rows come, in order; whoever is ready meanwhile does not wait for all of them."""
    seen = []

    async def other(known):
        while len(known) < 10 * AT_ONCE:
            seen.append(len(known))
            await asyncio.sleep(0)

    async def run():
        known = []
        task = asyncio.get_running_loop().create_task(other(known))
        async for row in in_turns(range(10 * AT_ONCE)):
            known.append(row)  # noqa: PERF401 - the other one looks at it meanwhile
        await task
        assert known == list(range(10 * AT_ONCE))

    asyncio.run(run())
    assert seen == list(range(AT_ONCE, 10 * AT_ONCE, AT_ONCE))
