"""The nearest edge is asked."""

from __future__ import annotations

import asyncio

import pytest

from msrt.client.edges import REFRESH_S
from tests.runtime.client.edges import play, rows
from tests.runtime.hop.tree import until


def test_the_nearer_of_those_at_hand_is_asked():
    """The caller named the far one first: with the first look at both, the near one is asked."""

    async def scenario(stage, client):
        stage["a"].away_s = 0.1
        await asyncio.sleep(REFRESH_S + 1)
        assert client._core.fronts[0].latency_s > 0.1
        assert (await client.infer("double", {"x": rows(1)})).device == "device-of-b"

    play(scenario)


@pytest.mark.parametrize("alike", [0.0, 0.0002])
def test_about_as_near_is_no_reason_to_move(alike):
    """A small difference is chance."""

    async def scenario(stage, client):
        await client.infer("double", {"x": rows(1)})
        stage["a"].away_s = alike
        await asyncio.sleep(REFRESH_S + 1)
        assert (await client.infer("double", {"x": rows(1)})).device == "device-of-a"

    play(scenario)


def test_one_that_was_only_heard_of_takes_the_place_of_a_far_one():
    """Two are at hand and far away; the third is looked at, and found near."""

    async def scenario(stage, client):
        stage["a"].away_s = stage["b"].away_s = 0.1
        await until(lambda: len(client._core.fronts) == 2)
        await asyncio.sleep(3 * REFRESH_S)
        assert (await client.infer("double", {"x": rows(1)})).device == "device-of-c"
        assert len(client._core.fronts) == 2

    play(scenario, edges=("a", "b", "c"))


def test_looking_around_costs_no_connection():
    """Edges that are no nearer, or dead, are left again; those at hand stay."""

    async def scenario(stage, client):
        stage["c"].away_s = 0.1
        stage.sim.crash("d")
        await until(lambda: len(client._core.fronts) == 2)
        await asyncio.sleep(5 * REFRESH_S)
        assert {front.url for front in client._core.fronts} == {"mem://a", "mem://b"}

    play(scenario, edges=("a", "b", "c", "d"))
