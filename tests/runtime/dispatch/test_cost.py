"""What a batch costs, how many may fly, and what retries and hedges may add."""

from __future__ import annotations

import random

import pytest

from msrt.dispatch.budget import Budget
from msrt.dispatch.cost import BatchCost
from msrt.dispatch.hedge import Lateness
from msrt.dispatch.limit import GradientLimit


def test_fixed_and_per_row_cost_are_found_under_noise():
    """Batches of many sizes with a tenth of noise: both parts come out within a quarter."""
    rng, cost = random.Random(1), BatchCost()
    for _ in range(300):
        rows = rng.randint(1, 32)
        cost.add(rows, (0.004 + 0.001 * rows) * rng.uniform(0.9, 1.1))
    assert cost.expected(16) == pytest.approx(0.02, rel=0.1)
    assert cost.per_row == pytest.approx(0.001, rel=0.25)


def test_one_size_alone_moves_the_level_only():
    """Without different sizes there is no slope to learn; what was known keeps its shape."""
    cost = BatchCost()
    for _ in range(50):
        cost.add(8, 0.01)
    assert cost.expected(8) == pytest.approx(0.01)
    assert cost.best_rows(64) == 64


def test_a_batch_grows_only_while_that_saves():
    """Where rows cost and batches do not, one at a time is best; where batches cost, many; never more than allowed."""
    rows_cost, batches_cost = BatchCost(), BatchCost()
    for rows in (1, 2, 4, 8, 16) * 20:
        rows_cost.add(rows, 0.005 * rows)
        batches_cost.add(rows, 0.02 + 1e-5 * rows)
    assert rows_cost.best_rows(64) == 1
    assert batches_cost.best_rows(64) == 64
    assert rows_cost.best_rows(64, way=0.005) > 1


def test_a_hint_stands_until_the_first_answer():
    """The worker's own word is believed as long as nothing was measured."""
    cost = BatchCost(0.25)
    assert (cost.expected(1), cost.known) == (0.25, False)
    cost.add(1, 0.1)
    assert (cost.expected(1), cost.known) == (pytest.approx(0.1), True)


def test_the_window_widens_over_a_long_way_only_where_batches_cannot_grow():
    """50 ms of way and 1 ms of work: more may fly if more waits than can ride, and not otherwise."""
    wide, still = GradientLimit(2, 16), GradientLimit(2, 16)
    for _ in range(200):
        wide.add(0.051, 0.001, alone=True, cramped=True)
        still.add(0.051, 0.001, alone=True, cramped=False)
    assert wide.batches == 16
    assert still.batches == 2


def test_the_window_narrows_again_when_batches_wait_on_the_worker():
    """Ten times the time of an empty way: back to the start, and never below."""
    limit = GradientLimit(2, 16)
    for _ in range(200):
        limit.add(0.051, 0.001, alone=True, cramped=True)
    for _ in range(100):
        limit.add(0.5, 0.001, alone=False, cramped=True)
    assert limit.batches == 2


def test_a_budget_bounds_the_share_and_keeps_no_more_than_its_most():
    """A thousand requests earn fifty tokens; an idle hour does not make it a thousand."""
    budget = Budget(0.05, 0.0, 64)
    assert budget.spend(64, 0.0)
    assert not budget.spend(1, 0.0)
    budget.earn(1000)
    assert sum(budget.spend(1, 0.0) for _ in range(100)) == 50
    budget.earn(1_000_000)
    assert budget.tokens == 64


def test_a_budget_earns_with_time():
    """The floor lets a quiet master retry at all."""
    budget = Budget(0.0, 20.0, 100)
    assert budget.spend(100, 0.0)
    assert not budget.spend(1, 0.0)
    assert budget.spend(20, 1.0)


@pytest.mark.parametrize("quantile", [0.9, 0.95, 0.99])
def test_lateness_learns_its_quantile(quantile):
    """Of exponential times, about one in twenty (or as asked) is later than what was learnt."""
    rng, late = random.Random(2), Lateness(quantile)
    for _ in range(20_000):
        late.add(rng.expovariate(1.0), 1.0)
    assert late.known
    beyond = sum(rng.expovariate(1.0) > late.ratio for _ in range(20_000)) / 20_000
    assert beyond == pytest.approx(1 - quantile, rel=0.5)


def test_batches_grow_with_what_came_back():
    """What 64 rows cost is not known from one: eight are tried first, and only then 64."""
    cost = BatchCost()
    assert cost.best_rows(64) == 8
    cost.add(1, 0.001)
    assert cost.best_rows(64) == 8
    cost.add(8, 0.0011)
    assert cost.best_rows(64) == 64


def test_a_batch_too_many_is_not_tried_when_rows_are_what_costs():
    """After one batch of eight it is known that company makes nothing cheaper."""
    cost = BatchCost()
    cost.add(1, 0.010)
    cost.add(8, 0.080)
    assert cost.best_rows(64) == 1
