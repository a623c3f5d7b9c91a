"""Named scenarios of whole trees."""

from __future__ import annotations

import asyncio

from tests.flows.tree import grown, until


def test_a_tree_joins_serves_watches_and_trains():
    """Everybody joins by invite, one model is served, its readings become events, two rounds are trained."""

    async def story(tree):
        version = await tree.push(1)
        await tree.ask("model.rollout", model="net", version=version)
        await until(lambda: tree.ready("net", 1), what="model 1 is ready everywhere")
        job = await tree.train(rounds=2)
        asked = [tree.sim.node("client").handler.ask([1, 2, 3, n]) for n in range(5)]
        await asyncio.wait_for(asyncio.gather(*(one.settled for one in asked)), 5)
        assert [len(one.answers) for one in asked] == [1] * 5, [one.failures for one in asked]
        await until(lambda: tree.ended(job), what="the job ended")
        assert tree.job(job).ended.state == "finished"
        assert tree.job(job).round == 2
        await until(lambda: tree.cloud.events.last > 10, what="events")

    grown(story)
