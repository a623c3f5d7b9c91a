"""An edge's part in one exchange of keys: who is in it, who hears whose shares, whose secrets come back. One table.

announce  devices say their keys; enough of them, or all, are put on a ring
share     each seals shares of its secrets for its neighbours; who did is in the exchange
collect   masked updates come, and are added up elsewhere (learning.rounds); some never come
reveal    each survivor says one share of each neighbour: of a survivor's own mask, or of a drop-out's key
done      the masks are known; or failed: they never will be
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, Final

from msrt.errors import MsrtError
from msrt.learning.pacing import Pace
from msrt.learning.secure_aggregation.events import (
    Action,
    Event,
    Exclude,
    GiveUp,
    Joined,
    Left,
    Said,
    Sealed,
    Tell,
    Unmask,
)
from msrt.learning.secure_aggregation.graph import MINIMUM, degree, neighbours, shuffled, threshold_of
from msrt.learning.secure_aggregation.keys import check_keys, member_of
from msrt.learning.secure_aggregation.masks import agreement
from msrt.learning.secure_aggregation.shamir import SHARE_SIZE
from msrt.learning.secure_aggregation.unmask import Dropped, Survivor, Unmasking
from msrt.protocol.messages import (
    SecureKeys,
    SecureOut,
    SecurePlan,
    SecureReveal,
    SecureRoster,
    SecureShare,
    SecureShares,
    SecureUnmask,
)

__all__ = ["SecureServer", "Stage"]

PATIENCE: Final = 4.0
GRACE_S: Final = 1.0
"""Once half of those who are waited for have said theirs, the others have a few times as long (see Pace)."""
PROBE: Final = bytes(range(32))
"""Any key: with one of the few that are none at all nobody can agree on a secret."""


class Stage(enum.Enum):
    """Of an exchange: see above."""

    ANNOUNCE = "announce"
    SHARE = "share"
    COLLECT = "collect"
    REVEAL = "reveal"
    DONE = "done"
    FAILED = "failed"


class SecureServer:
    """One exchange, named by `plan.session`, of those of `expected` who answer before `until`.

    `cloud` is the cloud's Ed25519 key, `seed` fresh random bytes that the ring follows from. Before `settled` more may
    come: an edge that has just started waits for its devices.
    """

    def __init__(
        self,
        job: str,
        plan: SecurePlan,
        expected: Iterable[str],
        cloud: bytes,
        seed: bytes,
        now: float,
        until: float,
        settled: float = 0.0,
    ) -> None:
        self.job, self.session, self.plan = job, plan.session, plan
        self.stage = Stage.ANNOUNCE
        self.waiting = set(expected)
        """Whose word is waited for in this stage."""
        self.keys: dict[str, SecureKeys] = {}
        self.ring: list[str] = []
        """By index."""
        self.inside: set[str] = set()
        """Who shared: their updates may be in the sum."""
        self._cloud, self._seed, self._until, self._settled = cloud, seed, until, settled
        self._pace = self._new_pace(now, until - (until - now) / 2)
        self._met: float | None = None
        self._index: dict[str, int] = {}
        self._near: list[tuple[int, ...]] = []
        self._threshold = 0
        self._shares: dict[str, dict[int, bytes]] = {}
        """From whom, for whom: sealed."""
        self._survivors: set[str] = set()
        self._revealed: dict[str, SecureReveal] = {}
        self._lacks: dict[str, int] = {}
        """Whose secrets it takes, and how many shares of them are missing."""

    @property
    def wake(self) -> float | None:
        """When to send the next Tick; None when nothing is waited for."""
        if self.stage in (Stage.ANNOUNCE, Stage.SHARE):
            return self._due
        return self._until if self.stage is Stage.REVEAL else None

    @property
    def _due(self) -> float:
        """When this stage is over."""
        least = min(self._settled, self._pace.deadline) if self.stage is Stage.ANNOUNCE else 0.0
        return max(least, self._pace.until(self._met) if self.waiting else 0.0)

    def handle(self, event: Event, now: float) -> list[Action]:
        """The actions that follow from one event."""
        step = self._TABLE.get((self.stage, type(event)))
        actions = step(self, event) if step is not None else []
        return actions + self._onward(now)

    # --- what is said ----------------------------------------------------------------------------------------------

    def _said(self, event: Said) -> list[Action]:
        match event.message:
            case SecureKeys() as keys:
                return self._announced(event.node, keys)
            case SecureShares() as shares:
                return self._shared(event.node, shares)
            case SecureReveal() as reveal:
                return self._reveal(event.node, reveal)
            case SecureOut(reason=reason):
                return self._leaves(event.node, reason)

    def _announced(self, node: str, keys: SecureKeys) -> list[Action]:
        known = self.keys.get(node)
        if self.stage is not Stage.ANNOUNCE:
            if known == keys:
                return self._again(node)
            why = "its keys came too late" if known is None else "it lost its keys of this exchange"
            return self._refuse(node, why)
        try:
            if check_keys(self.session, keys, self._cloud).node != node:
                return self._refuse(node, "it announced the keys of another device")
            agree = agreement(PROBE)
            for public in (keys.cipher, keys.mask):
                agree(public)  # a key that nobody can agree with would drive its neighbours out
        except MsrtError as error:
            return self._refuse(node, str(error))
        self.keys[node] = keys
        self.waiting.discard(node)
        return []

    def _shared(self, node: str, message: SecureShares) -> list[Action]:
        if self.stage is not Stage.SHARE or node not in self._index or node in self._shares:
            return self._again(node)
        shares = {share.index: share.data for share in message.shares}
        if shares.keys() != set(self._near[self._index[node]]):
            return self._refuse(node, "it shared its secrets with others than its neighbours")
        self._shares[node] = shares
        self.waiting.discard(node)
        return []

    def _reveal(self, node: str, message: SecureReveal) -> list[Action]:
        if self.stage is not Stage.REVEAL or node not in self._survivors or node in self._revealed:
            return []
        survivors, dropped = self._asked(node)
        seeds, keys = ({share.index for share in shares} for shares in (message.seeds, message.keys))
        sizes = {len(share.data) for share in (*message.seeds, *message.keys)}
        self.waiting.discard(node)
        if (seeds, keys) == (survivors, dropped) and sizes <= {SHARE_SIZE}:
            self._revealed[node] = message
            for index in self._near[self._index[node]]:
                self._count_share(self.ring[index])
        return []

    def _count_share(self, of: str) -> None:
        left = self._lacks.get(of, 0) - 1
        if left > 0:
            self._lacks[of] = left
        else:
            self._lacks.pop(of, None)

    def _leaves(self, node: str, reason: str) -> list[Action]:
        self.waiting.discard(node)
        if self.stage is Stage.ANNOUNCE:
            self.keys.pop(node, None)
        elif self.stage is Stage.SHARE:
            self._shares.pop(node, None)
        return [] if self.stage is Stage.REVEAL else [Exclude(node, reason)]

    def _refuse(self, node: str, why: str) -> list[Action]:
        return [*self._leaves(node, why), Tell(node, SecureOut(self.job, self.session, why))]

    def _came(self, event: Joined) -> list[Action]:
        """New ones may come while keys are announced; members hear again what they may have missed."""
        node = event.node
        if self.stage is Stage.ANNOUNCE:
            if node not in self.keys:
                self.waiting.add(node)
            return []
        return self._again(node) if node in self._index else self._refuse(node, "it came after keys were exchanged")

    def _went(self, event: Left) -> list[Action]:
        self.waiting.discard(event.node)
        gone = self.stage is Stage.ANNOUNCE and event.node not in self.keys
        return [Exclude(event.node, "it went away before keys were exchanged")] if gone else []

    def _again(self, node: str) -> list[Action]:
        """What this device should have heard last."""
        if node not in self._index:
            return []
        if self.stage is Stage.SHARE and node not in self._shares:
            return [self._roster_for(node)]
        if self.stage is Stage.COLLECT and node in self.inside:
            return [self._shares_for(node)]
        if self.stage is Stage.REVEAL and node in self._survivors and node not in self._revealed:
            return [self._question_for(node)]
        return []

    # --- from stage to stage -----------------------------------------------------------------------------------------

    def _new_pace(self, now: float, until: float) -> Pace:
        return Pace(now, until, max(MINIMUM, (len(self.waiting) + 1) // 2), PATIENCE, GRACE_S)

    def _onward(self, now: float) -> list[Action]:
        if self.stage is Stage.REVEAL:
            return self._complete(now)
        if self.stage not in (Stage.ANNOUNCE, Stage.SHARE):
            return []
        here = len(self.keys) if self.stage is Stage.ANNOUNCE else len(self._shares)
        if self._met is None and here >= self._pace.quorum:
            self._met = now
        if now < self._due:
            return []
        late = [Exclude(node, "it did not say its part of the exchange of keys in time") for node in self.waiting]
        return [
            *sorted(late, key=lambda one: one.node),
            *(self._to_ring(now) if self.stage is Stage.ANNOUNCE else self._to_inside()),
        ]

    def _to_ring(self, now: float) -> list[Action]:
        count = len(self.keys)
        if count < MINIMUM:
            few = f"{count} device{'s'[: count > 1]} of its region announced keys"
            return self._fail(f"{few}: a sum must hide {MINIMUM} at least")
        self.ring = shuffled(self.keys, self._seed)
        self._index = {node: index for index, node in enumerate(self.ring)}
        wanted = self.plan.neighbours or degree(count, self.plan.dropouts, self.plan.threshold)
        self._near = neighbours(count, wanted)
        self._threshold = threshold_of(len(self._near[0]), self.plan.threshold)
        self.stage, self.waiting, self._met = Stage.SHARE, set(self.ring), None
        self._pace = self._new_pace(now, self._until)
        return [self._roster_for(node) for node in self.ring]

    def _to_inside(self) -> list[Action]:
        """Who shared, without those whose secrets too few others could bring back."""
        inside, fewer = set(self._shares), True
        while fewer:
            weak = {node for node in inside if len(self._around(node, inside)) < self._threshold}
            inside, fewer = inside - weak, bool(weak)
        self.inside, self.waiting = inside, set()
        if len(inside) < MINIMUM:
            return self._fail(f"{len(self._shares)} of {len(self.ring)} devices shared their secrets, too few to go on")
        self.stage = Stage.COLLECT
        cut_off = sorted(self._shares.keys() - inside)
        out = [action for node in cut_off for action in self._refuse(node, "too few of its neighbours take part")]
        return [*out, *(self._shares_for(node) for node in self.ring if node in inside)]

    def _sealed(self, event: Sealed) -> list[Action]:
        self._survivors = set(event.nodes) & self.inside
        self._until = event.until
        short = [node for node in self._targets() if len(self._around(node, self._survivors)) < self._threshold]
        if len(self._survivors) < MINIMUM or short:
            return self._fail(
                f"{len(self._survivors)} of {len(self.inside)} devices sent their masked update, "
                f"too few neighbours of {len(short)} of them are left to take the masks off"
            )
        self.stage, self.waiting = Stage.REVEAL, set(self._survivors)
        self._lacks = dict.fromkeys(self._targets(), self._threshold)
        return [self._question_for(node) for node in self.ring if node in self._survivors]

    def _complete(self, now: float) -> list[Action]:
        """As soon as every secret that it takes has its shares; not when everybody answered."""
        if not self._lacks:
            self.stage = Stage.DONE
            return [Unmask(self._work())]
        if self.waiting and now < self._until:
            return []
        told, asked = len(self._revealed), len(self._survivors)
        return self._fail(f"{told} of {asked} devices said their shares, {len(self._lacks)} masks stay on")

    def _fail(self, reason: str) -> list[Action]:
        self.stage = Stage.FAILED
        return [GiveUp(reason)]

    # --- who and what ----------------------------------------------------------------------------------------------

    def _around(self, node: str, among: Iterable[str] | Mapping[str, object]) -> list[int]:
        """Its neighbours, of these."""
        return [index for index in self._near[self._index[node]] if self.ring[index] in among]

    def _targets(self) -> list[str]:
        """Whose secrets it takes: survivors, and drop-outs that share a mask with one."""
        return [node for node in self.ring if node in self.inside
                and (node in self._survivors or self._around(node, self._survivors))]  # fmt: skip

    def _roster_for(self, node: str) -> Tell:
        index = self._index[node]
        members = tuple(member_of(one, self.keys[self.ring[one]]) for one in self._near[index])
        return Tell(node, SecureRoster(self.job, self.session, index, len(self.ring), members))

    def _shares_for(self, node: str) -> Tell:
        index = self._index[node]
        shares = [SecureShare(one, self._shares[self.ring[one]][index]) for one in self._around(node, self.inside)]
        return Tell(node, SecureShares(self.job, self.session, tuple(shares)))

    def _asked(self, node: str) -> tuple[set[int], set[int]]:
        near, alive = set(self._around(node, self.inside)), set(self._around(node, self._survivors))
        return alive, near - alive

    def _question_for(self, node: str) -> Tell:
        survivors, dropped = (tuple(sorted(part)) for part in self._asked(node))
        return Tell(node, SecureUnmask(self.job, self.session, survivors, dropped))

    def _work(self) -> Unmasking:
        seeds: dict[int, dict[int, bytes]] = {}
        keys: dict[int, dict[int, bytes]] = {}
        for node, told in self._revealed.items():
            holder = self._index[node]
            for shares, said in ((seeds, told.seeds), (keys, told.keys)):
                for share in said:
                    of = shares.setdefault(share.index, {})
                    if len(of) < self._threshold:
                        of[holder] = share.data
        survivors = [Survivor(i, self.keys[self.ring[i]].commitment, seeds[i])
                     for node in self.ring if node in self._survivors for i in (self._index[node],)]  # fmt: skip
        dropped = [
            Dropped(self._index[node], self.keys[node].mask, keys[self._index[node]],
                    {one: self.keys[self.ring[one]].mask for one in self._around(node, self._survivors)})
            for node in self._targets() if node not in self._survivors
        ]  # fmt: skip
        return Unmasking(self.session, self.plan.bits, tuple(survivors), tuple(dropped))

    _TABLE: ClassVar[Mapping[tuple[Stage, type], Callable[..., list[Action]]]] = {
        (Stage.ANNOUNCE, Said): _said,
        (Stage.ANNOUNCE, Joined): _came,
        (Stage.ANNOUNCE, Left): _went,
        (Stage.SHARE, Said): _said,
        (Stage.SHARE, Joined): _came,
        (Stage.SHARE, Left): _went,
        (Stage.COLLECT, Said): _said,
        (Stage.COLLECT, Joined): _came,
        (Stage.COLLECT, Sealed): _sealed,
        (Stage.REVEAL, Said): _said,
        (Stage.REVEAL, Joined): _came,
    }
    """What is not here changes nothing; but time goes on (`_onward`)."""
