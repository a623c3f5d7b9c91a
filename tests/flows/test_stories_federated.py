"""Stories of nodes that differ: slow ones that send what they have.

A failing seed is replayed by `MSRT_SEED=n pytest tests/flows/test_stories_federated.py`.
"""

from __future__ import annotations

import pytest

from tests.flows import invariants
from tests.flows.test_stories_rounds import ended, slow
from tests.flows.tree import grown

SLOW_S = 60.0
"""What a straggler would need for all its epochs: twice the deadline."""


@pytest.mark.parametrize("how", [{"pace": {"partial": True}}, {"train": {"within_s": 3.0}}])
def test_a_straggler_that_may_stop_early_is_in_every_round(how, seed):
    """It sends what it has while its region still waits: nobody is lost, and no round lasts until the deadline."""

    async def story(tree):
        slow(tree, SLOW_S, first_only=False)
        facts = await ended(tree, rounds=8, quorum=0.5, **how)
        assert [len(fact.included) for fact in facts] == [len(tree.devices)] * 8
        rows = tree.cloud.training.report("job")["rounds"]
        assert all(0.0 < row["work"] < 1.0 for row in rows)
        assert rows[-1]["seconds"] < 5.0
        invariants.check_training(tree)

    grown(story, seed, edges={"edge-n": 4, "edge-s": 2})
