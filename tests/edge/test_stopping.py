"""An edge that is told to stop, stops."""

from __future__ import annotations

import asyncio

import pytest

from tests.flows.tree import grown


@pytest.mark.parametrize("turns", range(5))
def test_devices_that_leave_in_the_same_moment_do_not_keep_it(turns):
    """Its report to the cloud ends when cancelled, however close before that something had changed."""

    async def story(tree):
        reporting = asyncio.ensure_future(tree["edge-n"]._report())
        await asyncio.sleep(1)
        tree["edge-n"].fleet.changed.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        reporting.cancel()
        await asyncio.wait({reporting}, timeout=10)
        assert reporting.cancelled()

    grown(story)
