"""How the nodes of one group find each other, through the edge that they all live at. Pure.

A node's agent says where its store would listen, once for every life of its workers (`turn`). When all of a group wait
they are seated: the first of them by its id is rank 0, whose store serves them all. Who comes again with another turn
waits until everybody else has come again too: those who are at work are told that somebody waits, and start anew.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["JOBS", "Meet", "Meeting", "Met"]

JOBS: Final = 64
"""Jobs whose groups are kept; of more, those that were not heard of for longest go."""


class Meet(msgspec.Struct, frozen=True):
    """An agent looks for its group. The same turn may be said any number of times."""

    job: str
    nodes: int
    turn: str
    """Of one life of its workers; no two are equal."""
    address: str
    """Where the others reach this node."""
    port: int


class Met(msgspec.Struct, frozen=True, omit_defaults=True):
    """Generation 0: not all are here yet."""

    generation: int = 0
    rank: int = 0
    address: str = ""
    """Of rank 0's store. From the node itself, before anybody was asked: its own."""
    port: int = 0
    waiting: int = 0
    """Members who wait for the next generation."""


class _Group:
    """Members, the turn each of them said last, and those that were seated."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self.members: dict[str, Meet] = {}
        self.away: set[str] = set()
        self.seated: dict[str, Meet] = {}
        self.generation = 0

    def free(self) -> None:
        """Give the place of one who is away to somebody else."""
        gone = min(self.away)
        self.away.discard(gone)
        del self.members[gone]

    def meet(self, node: str, word: Meet) -> Met:
        self.away.discard(node)
        self.members[node] = word
        waiting = [one for one, said in self.members.items() if not self._is_seated(one, said)]
        if len(waiting) == self.nodes:
            self.seated, waiting = dict(sorted(self.members.items())), []
            self.generation += 1
        if not self._is_seated(node, word):
            return Met(waiting=len(waiting))
        first = next(iter(self.seated.values()))
        return Met(self.generation, list(self.seated).index(node), first.address, first.port, len(waiting))

    def _is_seated(self, node: str, word: Meet) -> bool:
        return node in self.seated and self.seated[node].turn == word.turn


class Meeting:
    """All groups of the nodes of one edge. A member keeps its place while it is away, unless a new node needs it."""

    def __init__(self) -> None:
        self._jobs: dict[str, list[_Group]] = {}

    def meet(self, node: str, word: Meet) -> Met:
        """What a node is told that says it."""
        groups = self._jobs.pop(word.job, [])
        self._jobs[word.job] = groups
        while len(self._jobs) > JOBS:
            del self._jobs[next(iter(self._jobs))]
        group = self._of(groups, node, word.nodes)
        if group not in groups:
            groups.append(group)
        return group.meet(node, word)

    def _of(self, groups: list[_Group], node: str, size: int) -> _Group:
        """Its own group, one that is not full, one where somebody is away, or a new one."""
        groups = [group for group in groups if group.nodes == size]
        for group in groups:
            if node in group.members:
                return group
        for group in groups:
            if len(group.members) < size:
                return group
        for group in groups:
            if group.away:
                group.free()
                return group
        return _Group(size)

    def left(self, node: str) -> None:
        """It is away: somebody else may have its place."""
        for groups in self._jobs.values():
            for group in groups:
                if node in group.members:
                    group.away.add(node)
