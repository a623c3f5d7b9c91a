"""A training round as two pure state machines: an edge's over its devices, the cloud's over everybody.

Each node counts at most once, whatever is lost, repeated or dies, by four rules:
1. A device stamps its update with the first parent (node/boot) it is sent to, and never changes that stamp.
   Only that parent may add it into a sum; any other passes it on alone, as a *single*.
2. A parent (one boot of it) makes one sum a round. The cloud adds a sum when it comes; the same sum again, or one that
   overlaps what was added, is dropped.
3. The cloud holds singles until the round ends, and then adds those whose node no sum contains.
4. An update of an earlier round (where the job takes them) is never part of a sum: it goes up alone, and the cloud,
   which remembers the newest round it counted of each node, takes it once.
5. Where masters stand between a region and the cloud, a sum is to them what an update is to an edge: its maker stamps
   it with the first of them that it is sent to (`summed_by`), which alone adds it into a sum of its own. Others pass it
   on; the cloud holds those it gets in that way until the end, and adds the largest first: of two sums with a node in
   common one is within the other, for nobody adds what another got first.

Senders keep their updates until RoundClosed, so a master that dies begins again with an empty machine.

base    what both share: identity of the round, checks, weights
region  an edge's
stretch a region's own rounds between two of the cloud's
cloud   the cloud's
"""

from __future__ import annotations

from msrt.learning.pacing import Pace
from msrt.learning.rounds.base import Phase, Terms
from msrt.learning.rounds.cloud import GlobalRound
from msrt.learning.rounds.region import RegionRound
from msrt.learning.rounds.stretch import Stretch

__all__ = ["GlobalRound", "Pace", "Phase", "RegionRound", "Stretch", "Terms"]
