"""What the nodes of a private job spent, each by itself, where it is they that give noisy updates away. Pure.

A node that rounds ask more often tells more. Its budget pays for so many rounds; who has none left is not asked again.
Counted is who was asked, as an update may have left although nobody counted it; a round that is opened again asks for
the update that the node still keeps, and costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

__all__ = ["Ledger", "Spent"]


class Spent(msgspec.Struct, frozen=True, array_like=True):
    """Of one node."""

    rounds: int = 0
    """That may have an update of it."""
    newest: int = 0
    """The last of them."""


NOTHING = Spent()


class Ledger:
    """Of one job; `limit` rounds of a node are paid for."""

    def __init__(self, limit: int, rows: Mapping[str, Spent] | None = None) -> None:
        self.limit = limit
        self.rows: dict[str, Spent] = dict(rows or {})

    def affords(self, node: str, number: int) -> bool:
        """May round `number` ask it?"""
        row = self.rows.get(node, NOTHING)
        return row.newest == number or row.rounds < self.limit

    def asked(self, nodes: Iterable[str], number: int) -> dict[str, Spent]:
        """That round asks these: their new rows, which must be durable before anybody hears of it."""
        fresh = {
            node: Spent(row.rounds + 1, number)
            for node in nodes
            if (row := self.rows.get(node, NOTHING)).newest != number
        }
        self.rows.update(fresh)
        return fresh

    def refused(self, node: str, number: int) -> dict[str, Spent]:
        """The node itself counted more, as a lost update was trained again: it has nothing left. Its new row."""
        row = self.rows[node] = Spent(max(self.limit, self.rows.get(node, NOTHING).rounds), number)
        return {node: row}

    @property
    def most(self) -> int:
        """Rounds of the node that spent most."""
        return max((row.rounds for row in self.rows.values()), default=0)

    def over(self, number: int) -> frozenset[str]:
        """Nodes that no round from `number` on may ask."""
        return frozenset(node for node in self.rows if not self.affords(node, number))
