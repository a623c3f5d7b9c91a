"""A worker's side of one clock: push to every server, and have the weights of every server.

What is lost on the way is said again; what a server says of an earlier clock, boot or generation is not heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

from msrt.protocol.messages import Pulled, Push

__all__ = ["Action", "Exchange", "Over", "Ready", "Send", "Take"]

AGAIN_S: Final = 2.0
"""A server that says nothing for so long is asked again, then after twice as long, and so on up to ..."""
AGAIN_MAX_S: Final = 8.0
MOVED_S: Final = 0.5
"""The same for one that does not know yet what it serves."""


class _Action(msgspec.Struct, frozen=True): ...


class Send(_Action, frozen=True):
    """Say it to its server; `payload`: with what was computed for its shards."""

    push: Push
    payload: bool


class Take(_Action, frozen=True):
    """The weights that came with this answer are those to go on with."""

    pulled: Pulled


class Ready(_Action, frozen=True):
    """The weights of every shard are here."""

    clock: int
    """To work on now."""
    round: int
    """In which that is."""


class Over(_Action, frozen=True):
    """There is nothing more to do."""


Action: TypeAlias = Send | Take | Ready | Over


class _Server:
    """What is known of one."""

    def __init__(self) -> None:
        self.known = False
        """It knows this boot."""
        self.over = False
        """It has nothing more to do."""
        self.turn = 0
        self.begin()

    def begin(self) -> None:
        self.counted = False
        """It has the payload."""
        self.tries = 0
        self.enter = -1
        """The clock that it let us into; -1: not yet."""
        self.due = 0.0


class Exchange:
    """One worker of one job. `open` says who serves what, `begin` starts a clock's exchange; one at a time."""

    def __init__(self, job: str, worker: str, boot: int) -> None:
        self.job, self.worker, self.boot = job, worker, boot
        self.generation = 0
        self.round = 0
        self.again_s = AGAIN_S
        """Longer where payloads take long to travel."""
        self._shards: dict[str, tuple[int, ...]] = {}
        self._servers: dict[str, _Server] = {}
        self._push: Push | None = None
        self._loaded = False

    @property
    def _ending(self) -> bool:
        """A server has nothing more to do: only that of the others matters now."""
        return any(server.over for server in self._servers.values())

    @property
    def busy(self) -> bool:
        """An exchange has begun and is not over."""
        return self._push is not None

    def open(self, generation: int, owners: Sequence[str], now: float) -> list[Action]:
        """Who serves which shard, from now on. An exchange that is under way goes on with them."""
        if generation == self.generation:
            return []
        self.generation = generation
        self._shards = {
            owner: tuple(at for at, other in enumerate(owners) if other == owner) for owner in dict.fromkeys(owners)
        }
        self._servers = {owner: _Server() for owner in self._shards}
        return self._say_all(now) if self.busy else []

    def begin(self, clock: int, now: float, *, payload: Push | None = None) -> list[Action]:
        """Done with that clock (-1: with none), and on to the next; `payload` says what there is to push: encoding,
        samples, metrics.
        """
        first = Push(self.job, 0, "", self.worker, self.boot)
        self._push = msgspec.structs.replace(payload or first, worker=self.worker, boot=self.boot, clock=clock)
        self._loaded = payload is not None
        for server in self._servers.values():
            server.begin()
        return self._say_all(now)

    def tick(self, now: float) -> list[Action]:
        """Ask again where an answer is overdue."""
        if not self.busy:
            return []
        late = [
            name for name, server in self._servers.items()
            if server.enter < 0 and not server.over and now >= server.due
        ]  # fmt: skip
        return [self._say(name, now) for name in late]

    def pulled(self, answer: Pulled, now: float) -> list[Action]:
        """A server's answer."""
        server = self._servers.get(answer.server)
        push = self._push
        if push is None or server is None or answer.generation != self.generation or answer.boot != self.boot:
            return []
        stale = answer.clock != push.clock or server.enter >= 0
        if answer.said != "over" and (stale or (answer.said == "go" and self._ending)):
            return []
        match answer.said:
            case "go":
                server.known, server.turn, server.enter = True, answer.turn, answer.enter
                self.round = max(self.round, answer.round)
                return [Take(answer), *self._settle(answer.enter, now)]
            case "wait":
                server.known = server.counted = True
                server.tries = 0
                return [] if self._ending else self._settle(answer.enter, now)
            case "again":
                server.known, server.counted = self._loaded, False
                return [self._say(answer.server, now)]
            case "join":
                server.known = False
                return [self._say(answer.server, now)]
            case "moved":
                server.due = now + MOVED_S
            case "over":
                server.over = True
                self.round = max(self.round, answer.round)
                return self._end(now)
        return []

    def _settle(self, enter: int, now: float) -> list[Action]:
        """A server has us at this clock. Where that is later than we knew, all others hear of it at once, whether they
        let us go on or not: or workers would wait for each other, each at another server.
        """
        assert self._push is not None
        if enter > self._push.clock + 1:
            self._push = msgspec.structs.replace(self._push, clock=enter - 1, samples=0, encoding="", metrics={})
            self._loaded = False
            behind = [name for name, server in self._servers.items() if server.enter < enter]
            for name in behind:
                self._servers[name].begin()
                self._servers[name].known = False
            if behind:
                return [self._say(name, now) for name in behind]
        if any(server.enter < 0 for server in self._servers.values()):
            return []
        self._push = None
        return [Ready(enter, self.round)]

    def _end(self, now: float) -> list[Action]:
        """One server is at the end of the last round; those that lack a push or two hear of it."""
        left = [name for name, server in self._servers.items() if not server.over]
        if not left:
            self._push = None
            return [Over()]
        for name in left:
            self._servers[name].enter = -1
        return [self._say(name, now) for name in left]

    def _say_all(self, now: float) -> list[Action]:
        return [self._say(name, now) for name in self._servers]

    def _say(self, name: str, now: float) -> Action:
        assert self._push is not None
        server = self._servers[name]
        server.due = now + min(self.again_s * 2**server.tries, max(AGAIN_MAX_S, self.again_s))
        server.tries += 1
        loaded = self._loaded and not server.counted
        push = msgspec.structs.replace(
            self._push, generation=self.generation, server=name, join=not server.known, shards=self._shards[name],
            encoding=self._push.encoding if loaded else "", turn=server.turn, round=self.round,
        )  # fmt: skip
        return Send(push, loaded)
