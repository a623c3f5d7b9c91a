"""Workers and servers of one job with a network between them that loses, repeats and reorders, and deaths of both.

The machines are the real ones; a payload is its name. What is in each shard is the list of those names.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec

from msrt.learning.parameter_server import Exchange, Mode
from msrt.learning.parameter_server import events as e
from msrt.learning.parameter_server import exchange as x
from msrt.learning.parameter_server.server import ShardServer, Terms
from msrt.protocol.messages import Pulled, Push

LEASE_S = 3.0


@dataclass
class Server:
    """One server: its machine, what is in its shards, and the same as it was written to disk last."""

    name: str
    shards: tuple[int, ...]
    terms: Terms
    inside: dict[int, list[str]] = field(default_factory=dict)
    disk: tuple[e.Mark, dict[int, list[str]]] | None = None
    rounds: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start(None)

    def start(self, disk):
        mark = disk[0] if disk else e.Mark(0.0, 0, {})
        self.machine = ShardServer(self.terms, mark.progress, mark.turn)
        self.sums: dict[int, list[str]] = {shard: [] for shard in self.shards}
        self.inside = {shard: list(disk[1][shard]) if disk else [] for shard in self.shards}
        for shard in self.shards:
            self.machine.hold(shard, mark.applied.get(shard, {}))


class Field:
    """All of them. `rate` of messages are lost, as many are repeated."""

    def __init__(self, terms: Terms, servers: int, workers: int, seed: int, rate: float) -> None:
        self.random, self.rate, self.now = random.Random(seed), rate, 0.0
        self.servers = {f"s{at}": Server(f"s{at}", (at,), terms) for at in range(servers)}
        self.owners = tuple(self.servers)
        self.workers: dict[str, Exchange | None] = {f"w{at}": None for at in range(workers)}
        self.clock = dict.fromkeys(self.workers, -1)
        self.over: set[str] = set()
        self.bag: list[tuple[Push, str] | Pulled] = []
        """On their way."""
        self.boots = 0
        self.payload: dict[str, str] = {}
        for worker in self.workers:
            self.begin(worker)

    # --- fates

    def begin(self, worker):
        """A new life of a worker."""
        self.boots += 1
        exchange = self.workers[worker] = Exchange("job", worker, self.boots)
        exchange.open(1, self.owners, self.now)
        self.payload[worker], self.clock[worker] = "", -1
        self.perform(worker, exchange.begin(-1, self.now))

    def kill(self, worker):
        self.workers[worker] = None

    def save(self, name):
        self.act(self.servers[name], self.servers[name].machine.handle(e.Save(), self.now))

    def restart(self, name):
        """A server dies and comes back with what is on its disk."""
        self.servers[name].start(self.servers[name].disk)

    def tick(self, seconds):
        self.now += seconds
        here = tuple(worker for worker, exchange in self.workers.items() if exchange is not None)
        for server in self.servers.values():
            self.act(server, server.machine.handle(e.Here(here), self.now))
            self.act(server, server.machine.handle(e.Tick(), self.now))
        for worker, exchange in self.workers.items():
            if exchange is not None:
                self.perform(worker, exchange.tick(self.now))

    def deliver(self):
        """One of the messages that are on their way; perhaps it is lost, perhaps it will come again."""
        if not self.bag:
            return
        message = self.bag.pop(self.random.randrange(len(self.bag)))
        chance = self.random.random()
        if chance < self.rate:
            return
        if chance < 2 * self.rate:
            self.bag.append(message)
        if isinstance(message, Pulled):
            exchange = self.workers[message.worker]
            if exchange is not None:
                self.perform(message.worker, exchange.pulled(message, self.now))
            return
        push, payload = message
        server = self.servers[push.server]
        self.act(server, server.machine.handle(e.Arrived(push, payload), self.now))

    # --- what the machines say

    def perform(self, worker, actions):
        for action in actions:
            match action:
                case x.Send(push, payload):
                    self.bag.append((push, self.payload[worker] if payload else ""))
                case x.Ready(clock, _):
                    self.step(worker, clock)
                case x.Over():
                    self.over.add(worker)

    def step(self, worker, clock):
        """Compute and push."""
        exchange = self.workers[worker]
        assert clock > self.clock[worker] or clock == -1, "a clock came again"
        self.clock[worker] = clock
        for server in self.servers.values():
            lowest = server.machine.clocks.lowest
            self.saw(server, worker, clock, lowest)
        self.payload[worker] = f"{worker}/{clock}/{exchange.boot}"
        push = msgspec.structs.replace(Push("job", 1, "", worker, exchange.boot), encoding="fp32", samples=1, data=10)
        self.perform(worker, exchange.begin(clock, self.now, payload=push))

    def saw(self, server, worker, clock, lowest):
        """For a test to look at."""

    def act(self, server, actions):
        for action in actions:
            match action:
                case e.Add(key, shards, _):
                    for shard in shards:
                        server.sums[shard].append(key)
                case e.Step():
                    for shard in server.shards:
                        server.inside[shard] += server.sums[shard]
                        server.sums[shard] = []
                case e.Apply(key, shards, _, _):
                    for shard in shards:
                        server.inside[shard].append(key)
                case e.Keep(mark):
                    server.disk = mark, {shard: list(names) for shard, names in server.inside.items()}
                case e.Snapshot(round_, mark, _):
                    server.rounds.append(round_)
                    server.disk = mark, {shard: list(names) for shard, names in server.inside.items()}
                case e.Answer(push, said, enter, turn, round_):
                    weights = push.shards if said == "go" else ()
                    self.bag.append(
                        Pulled(
                            "job",
                            1,
                            server.name,
                            push.worker,
                            push.boot,
                            push.clock,
                            said,
                            enter,
                            turn,
                            round_,
                            weights,
                        )
                    )


def terms(mode=Mode.SYNC, staleness=0, *, rounds=2, steps=4.0, least=1, ahead=0):
    """Of a short job."""
    return Terms(mode, staleness, ahead, rounds=rounds, steps=steps, lease_s=LEASE_S, least=least)
