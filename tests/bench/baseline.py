"""An edge that balances as plain proxies do: `python -m tests.bench.baseline POLICY edge join ...`.

The real edge process, but that each request is sent at once to the device that POLICY names (`round_robin`, or
`least_requests` of all devices), without queue, batching, hedging, and ejection of slow ones. Only to be compared with.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

from msrt.cli import main
from msrt.dispatch import eject
from msrt.dispatch.admission import Admission
from msrt.dispatch.launch import Launcher
from msrt.dispatch.limit import GradientLimit
from msrt.dispatch.roster import Pool, Slot

MANY = 1_000_000
Pick = Callable[[list[Slot]], Slot]


def _round_robin() -> Pick:
    turn = itertools.count()
    return lambda slots: slots[next(turn) % len(slots)]


def _least_requests() -> Pick:
    turn = itertools.count()

    def pick(slots: list[Slot]) -> Slot:
        first = next(turn) % len(slots)  # equals take turns
        return min(slots[first:] + slots[:first], key=lambda slot: slot.worker.rows)

    return pick


POLICIES = {"round_robin": _round_robin, "least_requests": _least_requests}


def _replace(pick: Pick) -> None:
    def pump(self: Launcher, pool: Pool, now: float, out: list[Any]) -> None:
        while pool.items and pool.slots:
            if not self._launch(pool, pick(pool.slots), now, out):
                return

    bounded = GradientLimit.__init__

    def unbounded(self: GradientLimit, _start: int, _most: int) -> None:
        bounded(self, MANY, MANY)

    for kind, name, work in (
        (Launcher, "pump", pump),
        (Launcher, "_hold", lambda *_: False),
        (Launcher, "_watch", lambda *_: None),
        (GradientLimit, "__init__", unbounded),
        (Slot, "best_rows", lambda *_: 1),
        (Admission, "check_deadline", lambda *_: None),
        (eject, "slow_ones", lambda *_: []),
    ):
        setattr(kind, name, work)


if __name__ == "__main__":
    _replace(POLICIES[sys.argv[1]]())
    sys.exit(main(sys.argv[2:]))
