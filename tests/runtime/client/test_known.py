"""Which edges a client knows, and from whom."""

from __future__ import annotations

import asyncio

import pytest

from msrt import errors
from msrt.client import AsyncClient
from msrt.client.known import Known, member_folder, same_url
from msrt.protocol.messages import Parent
from tests.runtime.client.edges import member, play, rows
from tests.runtime.hop.tree import parent_of, until


def test_other_edges_are_learned_and_kept_at_hand():
    """One address is enough: its edge names the others, one of which is connected before it is needed."""

    async def scenario(stage, client):
        await until(lambda: len(client._core.fronts) == 2)
        assert {edge.zmq for edge in client.edges} == {"mem://a", "mem://b", "mem://c"}
        assert {front.url for front in client._core.fronts} == {"mem://a", "mem://b"}

    play(scenario, edges=("a", "b", "c"))


def test_when_both_are_gone_a_third_is_found():
    """Edges that were only heard of are tried when those at hand are dead."""

    async def scenario(stage, client):
        await until(lambda: len(client._core.fronts) == 2)
        stage.sim.crash("a")
        stage.sim.crash("b")
        answer = await client.infer("double", {"x": rows(1)}, deadline=20.0)
        assert answer.device == "device-of-c"

    play(scenario, edges=("a", "b", "c"))


def test_edges_are_remembered_on_disk():
    """At the next start no cloud is needed to find them."""

    async def scenario(stage, client):
        await until(lambda: len(client._core.fronts) == 2)
        await client.close()
        again = await stage.client([])
        assert {front.url for front in again._core.fronts} == {"mem://a", "mem://b"}
        assert (await again.infer("double", {"x": rows(1)}))["y"][0, 0] == 2
        await again.close()

    play(scenario)


def test_an_address_of_no_edge_is_refused():
    """Its key is not known, so it cannot be dialled: the error names the edges there are."""

    async def scenario(stage, _client):
        with pytest.raises(errors.NotFound, match="mem://nowhere") as found:
            await AsyncClient(["mem://nowhere"], member=member(stage.sim.world("app2"))).open()
        assert "mem://a" in found.value.hint

    play(scenario)


def test_without_the_cloud_an_unknown_address_is_disconnected():
    """The cloud must be asked for the key, and is away."""

    async def scenario(stage, _client):
        stage.sim.crash("a")
        await asyncio.sleep(0.1)
        with pytest.raises(errors.Disconnected):
            await AsyncClient(["mem://b"], member=member(stage.sim.world("app2"))).open()

    play(scenario)


def test_an_edge_that_moved_is_found_again():
    """It listens elsewhere after a restart: the cloud says where, and the client follows."""

    async def scenario(_stage, client):
        known = client._edges.known
        assert known.learn([Parent(parent_of("a").node, parent_of("a").link_key, zmq="mem://elsewhere")])
        await client._edges._seek()
        assert {edge.zmq for edge in client.edges} >= {"mem://a"}

    play(scenario)


@pytest.mark.parametrize("url", ["edge:5570", "mqtt://edge:1", "tcp://", ""])
def test_what_is_no_address_is_refused(url):
    """The error shows how to write one."""
    with pytest.raises(errors.InvalidAddress, match="write tcp"):
        Known([url], None)


def test_a_client_says_so_before_it_looks_for_an_identity(tmp_path):
    """Who forgets the scheme is not told to log in."""

    async def main():
        with pytest.raises(errors.InvalidAddress, match="write tcp"):
            await AsyncClient(["edge:8443"], state=tmp_path).open()

    asyncio.run(main())


def test_one_spelling_of_an_address():
    """Written as localhost and 127.0.0.1, with and without a slash at the end."""
    assert same_url("http://localhost:80/") == same_url("http://127.0.0.1:80")


def test_no_identity_says_what_to_do(tmp_path):
    """The error names the directory and the command."""
    with pytest.raises(errors.NotEnrolled, match="msrt login INVITE"):
        member_folder(tmp_path)
