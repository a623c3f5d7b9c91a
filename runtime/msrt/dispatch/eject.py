"""Outlier ejection: who is so much slower than its peers that it does harm, and how many may be out at once.

Errors trip a slot's breaker by themselves; this sweep adds latency, holds the share that may be ejected, and says when
so many are out that ejecting makes it worse (panic: then everybody gets work again).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from msrt.dispatch.breaker import Circuit

if TYPE_CHECKING:
    from msrt.dispatch.config import Config
    from msrt.dispatch.roster import Slot

__all__ = ["may_eject", "panics", "slow_ones"]

PEERS = 3
"""With fewer there is no telling who is the odd one."""


def may_eject(slots: Sequence[Slot], config: Config) -> int:
    """How many more of these may be ejected: never above the share, but at least one of two or more."""
    if len(slots) < 2:
        return 0
    out = sum(slot.breaker.circuit is not Circuit.CLOSED for slot in slots)
    return max(int(len(slots) * config.eject_share), 1) - out


def panics(slots: Sequence[Slot], config: Config) -> bool:
    """Whether so few are left that the ejected must help."""
    if not slots:
        return False
    able = sum(slot.breaker.circuit is not Circuit.OPEN and not slot.worker.suspect for slot in slots)
    return able < config.panic_share * len(slots)


def slow_ones(slots: Sequence[Slot], now: float, config: Config) -> list[Slot]:
    """Slots whose usual time is far above the median of their peers, worst first."""
    known = [slot for slot in slots if slot.latency.known and slot.breaker.circuit is Circuit.CLOSED]
    if len(known) < PEERS:
        return []
    usual = median(slot.latency.usual for slot in known)
    bound = max(usual * config.slow_factor, usual + config.slow_floor_s)
    odd = [slot for slot in known if slot.latency.usual > bound and now - slot.latency.at < config.slow_fresh_s]
    return sorted(odd, key=lambda slot: -slot.latency.usual)
