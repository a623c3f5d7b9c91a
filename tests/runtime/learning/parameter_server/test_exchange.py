"""A worker's side: what it says again, what it does not hear, and when it goes on."""

from __future__ import annotations

import msgspec

from msrt.learning.parameter_server import Exchange
from msrt.learning.parameter_server import exchange as x
from msrt.protocol.messages import Pulled, Push

OWNERS = ("s0", "s1", "s0")
UPDATE = Push("job", 0, "", "", 0, encoding="fp32", samples=8, data=80, metrics={"train_loss": 1.0})


def opened(owners=OWNERS):
    exchange = Exchange("job", "w", 7)
    exchange.open(1, owners, 0.0)
    return exchange


def answer(server, said, clock=-1, enter=0, **more):
    return Pulled("job", 1, server, "w", 7, clock, said, enter, **more)


def sent(actions):
    """Server to (push, with payload)."""
    return {action.push.server: (action.push, action.payload) for action in actions if isinstance(action, x.Send)}


def joined(clock=3):
    """Both servers let it in at this clock."""
    exchange = opened()
    exchange.begin(-1, 0.0)
    exchange.pulled(answer("s0", "go", enter=clock, turn=11), 0.0)
    assert x.Ready(clock, 0) in exchange.pulled(answer("s1", "go", clock - 1, clock), 0.0)
    return exchange


def test_it_joins_every_server_with_its_shards():
    """Each hears of the shards that it serves."""
    said = sent(opened().begin(-1, 0.0))
    assert {server: push.shards for server, (push, _) in said.items()} == {"s0": (0, 2), "s1": (1,)}
    assert all(push.join and push.clock == -1 and not loaded for push, loaded in said.values())


def test_a_push_names_the_turn_on_which_it_was_computed():
    """Of the server that it goes to: staleness is counted there."""
    said = sent(joined().begin(3, 1.0, payload=UPDATE))
    assert (said["s0"][0].turn, said["s1"][0].turn) == (11, 0)
    assert all(loaded and push.encoding == "fp32" and not push.join for push, loaded in said.values())


def test_the_payload_is_not_sent_again_once_it_is_counted():
    """A server that waits for others is asked without it; one that does not have it any more gets it again."""
    exchange = joined()
    exchange.begin(3, 1.0, payload=UPDATE)
    exchange.pulled(answer("s0", "wait", 3, 4), 1.1)
    assert exchange.tick(2.0) == []
    again = sent(exchange.tick(3.5))
    assert (again["s0"][1], again["s1"][1]) == (False, True)
    assert sent(exchange.pulled(answer("s0", "again", 3), 3.6))["s0"][1]


def test_what_is_said_of_another_life_generation_or_clock_is_not_heard():
    """Only an answer to the question that is open counts."""
    exchange = joined()
    exchange.begin(3, 1.0, payload=UPDATE)
    good = answer("s0", "go", 3, 4)
    for stale in ({"boot": 6}, {"generation": 2}, {"clock": 2}, {"server": "s9"}):
        assert exchange.pulled(msgspec.structs.replace(good, **stale), 1.1) == []
    assert exchange.pulled(good, 1.1) == [x.Take(good)]
    assert exchange.pulled(good, 1.2) == []


def test_servers_that_have_it_at_different_clocks_are_brought_together():
    """It goes on with the latest; those that are behind hear of it, and give their weights again."""
    exchange = opened()
    exchange.begin(-1, 0.0)
    assert sent(exchange.pulled(answer("s0", "go", enter=5), 0.0)).keys() == {"s1"}
    said = sent(exchange.pulled(answer("s1", "wait", 4, 6), 0.0))
    assert said.keys() == {"s0", "s1"}
    assert all(push.join and push.clock == 5 for push, _ in said.values())
    exchange.pulled(answer("s0", "go", 5, 6), 0.1)
    assert x.Ready(6, 0) in exchange.pulled(answer("s1", "go", 5, 6), 0.2)


def test_new_owners_are_joined_with_what_is_under_way():
    """The payload goes to whoever serves the shard now; counted before, it is dropped there."""
    exchange = joined()
    exchange.begin(3, 1.0, payload=UPDATE)
    said = sent(exchange.open(2, ("s0", "s0", "s0"), 2.0))
    assert said.keys() == {"s0"}
    push, loaded = said["s0"]
    assert (push.generation, push.join, push.shards, loaded) == (2, True, (0, 1, 2), True)


def test_the_end_is_told_to_servers_that_lack_a_push():
    """It is over once every server says so."""
    exchange = joined()
    exchange.begin(3, 1.0, payload=UPDATE)
    said = sent(exchange.pulled(answer("s0", "over", 3, round=2), 1.1))
    assert said["s1"][0].round == 2
    assert exchange.pulled(answer("s1", "over", 3, round=2), 1.2) == [x.Over()]
    assert not exchange.busy
