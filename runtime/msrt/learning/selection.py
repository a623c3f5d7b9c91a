"""Whom a round asks, of all that could be. Pure: the same nodes, records and round give the same choice.

random     lots, drawn from the job's name, the round and the node
available  lots weighed by how reliably a node answered of late
utility    Oort (Lai 2021): first those from whom there is most to learn, unless they are slow, and some unknown ones

What Oort computes from the losses of single samples is taken from what a node's report holds anyway: samples times mean
loss. A node that is t times as slow as the median counts 1 / t^2 of it, and one that answers every other time a half.
Whatever the strategy, `fairness` bounds for how many rounds in a row a node may sit out: each round has places for
those who waited longest, as many as it takes for everybody to have a turn in time.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from msrt.learning.history import UNKNOWN, Seen

__all__ = ["Strategy", "Wanted", "key_of", "places", "select"]

Strategy: TypeAlias = Literal["random", "available", "utility"]
Floats: TypeAlias = NDArray[np.float64]

SLOWNESS: Final = 2.0
"""Oort's alpha."""
CUT: Final = 0.95
"""Oort's c: of the least utility that would do, who has this much is a candidate as well; and the quantile above which
utilities are cut, so that one odd loss does not rule.
"""


class Wanted(msgspec.Struct, frozen=True):
    """How a job chooses. `count` is for one round, and `most` what it may have where fairness needs more."""

    strategy: Strategy = "random"
    count: int = 1
    most: int = 1 << 30
    fairness: int = 0
    """Rounds that a node may sit out in a row; 0: any number."""
    explore: float = 0.2
    """With utility: share of the places for nodes that no round has asked yet."""


def select(nodes: Sequence[str], seen: Mapping[str, Seen], wanted: Wanted, job: str, number: int) -> list[str]:
    """Whom round `number` asks, in their order. About a microsecond a node: call it through `World.offload`."""
    keys = np.fromiter(map(key_of, nodes), np.uint64, len(nodes))
    return [nodes[at] for at in places(nodes, keys, seen, wanted, job, number).tolist()]


def places(
    nodes: Iterable[str], keys: NDArray[np.uint64], seen: Mapping[str, Seen], wanted: Wanted, job: str, number: int
) -> NDArray[np.intp]:
    """`select`, where the nodes' keys are at hand already: the places of those it asks. Lots alone (`random`, without a
    bound on sitting out) look at no node: a tenth of a microsecond each.
    """
    if len(keys) <= min(wanted.count, wanted.most):
        return np.arange(len(keys))
    lots = _lots(keys, f"{job}/{number}/")
    if wanted.strategy == "random" and not wanted.fairness:
        return np.flatnonzero(_least(lots, min(wanted.count, wanted.most)))
    rows = [seen.get(node, UNKNOWN) for node in nodes]
    taken = _fair(rows, lots, wanted.fairness, number)
    left = min(max(wanted.count, int(taken.sum())), wanted.most) - int(taken.sum())
    if left < 0:
        taken = _least(np.where(taken, _asked(rows) + lots, np.inf), wanted.most)
    elif left:
        taken |= _by_strategy(rows, lots, taken, wanted, number, left)
    return np.flatnonzero(taken)


def _by_strategy(
    rows: Sequence[Seen], lots: Floats, taken: NDArray[np.bool_], wanted: Wanted, number: int, left: int
) -> NDArray[np.bool_]:
    """So many more that are not taken yet."""
    if wanted.strategy == "random":
        return _least(np.where(taken, np.inf, lots), left)
    reliability = np.fromiter((row.reliability for row in rows), np.float64, len(rows))
    if wanted.strategy == "available":
        return _least(np.where(taken, np.inf, _weighed(lots, reliability)), left)
    fresh = _asked(rows) == 0
    places = min(left, max(0, round(wanted.explore * wanted.count) - int((fresh & taken).sum())))
    chosen = _least(np.where(taken | ~fresh, np.inf, lots), min(places, int((fresh & ~taken).sum())))
    utility = np.where(fresh | taken, 0.0, _utility(rows, number) * reliability)
    left -= int(chosen.sum())
    least = np.partition(utility, -left)[-left] if left else 0.0
    candidates = (utility > 0) & (utility >= CUT * least)
    chosen |= _least(np.where(candidates, _weighed(lots, utility), np.inf), min(left, int(candidates.sum())))
    left -= int((chosen & ~fresh).sum())
    return chosen | _least(np.where(chosen | taken, np.inf, lots), left)


def _utility(rows: Sequence[Seen], number: int) -> Floats:
    """Of nodes that were asked; relative, at most about 1. Who never was in a round has none."""
    table = np.array([(row.samples, row.loss, row.seconds, row.counted) for row in rows], np.float64)
    samples, loss, seconds, counted = table.T
    value = np.where(np.isfinite(loss), samples * np.maximum(loss, 0.0), 0.0)
    known = counted > 0
    if not known.any():
        return np.zeros(len(rows))
    value = np.minimum(value, np.quantile(value[known], CUT))
    value /= max(value.max(), 1e-12)
    doubt = np.sqrt(0.1 * math.log(max(number, 1)) / np.maximum(counted, 1))
    times = seconds[known & np.isfinite(seconds)]
    usual = float(np.median(times)) if times.size else 0.0
    slow = np.isfinite(seconds) & (seconds > usual) & (usual > 0)
    penalty = np.where(slow, (usual / np.where(slow, seconds, 1.0)) ** SLOWNESS, 1.0)
    return np.where(known, (value + doubt) * penalty, 0.0)


def _fair(rows: Sequence[Seen], lots: Floats, fairness: int, number: int) -> NDArray[np.bool_]:
    """Who has waited longest, as many as must have a turn now; and who has waited as long as anybody may."""
    if not fairness:
        return np.zeros(len(rows), np.bool_)
    asked = _asked(rows)
    turn = _least(asked + lots, math.ceil(len(rows) / (fairness + 1)))
    return turn | (number - 1 - asked >= fairness)


def _asked(rows: Sequence[Seen]) -> Floats:
    return np.fromiter((row.asked for row in rows), np.float64, len(rows))


def key_of(node: str) -> int:
    """What its lots are drawn by: 64 bits, the same for ever."""
    return int.from_bytes(hashlib.blake2b(node.encode(), digest_size=8).digest(), "little")


def _lots(keys: NDArray[np.uint64], salt: str) -> Floats:
    """In 0 .. 1, one a node, whoever else is there: its key and the salt, mixed (splitmix64, Steele 2014)."""
    mixed = keys ^ np.uint64(key_of(salt))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    lots: Floats = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2.0**53
    return lots


def _weighed(lots: Floats, weights: Floats) -> Floats:
    """The least of them are a draw without replacement by these weights (Efraimidis 2006)."""
    return -np.log(np.maximum(lots, 1e-18)) / np.maximum(weights, 1e-9)


def _least(keys: Floats, count: int) -> NDArray[np.bool_]:
    """Where the `count` least keys are."""
    chosen = np.zeros(len(keys), np.bool_)
    if count > 0:
        chosen[np.argpartition(keys, min(count, len(keys)) - 1)[:count]] = True
    return chosen
