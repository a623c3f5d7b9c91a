"""Whom a round asks: bounds and preferences that hold over many rounds."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt.learning.history import History
from msrt.learning.notes import Note
from msrt.learning.selection import Wanted, select

NODES = [f"d{n:03d}" for n in range(300)]
STRATEGIES = ("random", "available", "utility")


def play(nodes, wanted, rounds, answers=lambda _node, _number: True, note=lambda _node: Note(1.0, 0.5, 1.0)):
    """(who was asked in each round, the history after them)."""
    history, asked = History(), []
    for number in range(1, rounds + 1):
        chosen = select(nodes, history.seen, wanted, "job", number)
        included = {node: 10 for node in chosen if answers(node, number)}
        history.settle(history.after(number, chosen, included, {node: note(node) for node in included}))
        asked.append(chosen)
    return asked, history


def waits(asked, nodes):
    """The longest that each sat out in a row."""
    longest = {}
    for node in nodes:
        turns = [0, *(number for number, chosen in enumerate(asked, 1) if node in chosen), len(asked) + 1]
        longest[node] = max(after - before - 1 for before, after in itertools.pairwise(turns))
    return longest


def test_a_round_of_too_many_takes_a_part_of_them_and_the_next_one_others() -> None:
    """The same ones when it is opened again, in the order of all; few are taken whole."""
    wanted = Wanted(count=30)
    first = select(NODES, {}, wanted, "job", 1)
    assert (len(first), first) == (30, sorted(first))
    assert first == select(NODES, {}, wanted, "job", 1)
    assert len({*first, *select(NODES, {}, wanted, "job", 2), *select(NODES, {}, wanted, "job", 3)}) > 60
    assert select(NODES, {}, Wanted(count=300), "job", 1) == NODES


def test_who_else_is_there_does_not_change_a_nodes_lot() -> None:
    """A device that is away when a round is opened again is replaced, the others stay."""
    first = select(NODES, {}, Wanted(count=30), "job", 1)
    again = select([node for node in NODES if node != first[0]], {}, Wanted(count=30), "job", 1)
    assert set(again) >= set(first[1:])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_is_fair_over_many_rounds_without_a_burst(strategy) -> None:
    """Nobody sits out more than the bound, slow and unreliable nodes neither, and no round is larger for it."""
    nodes = NODES[:100]
    wanted = Wanted(strategy, count=12, fairness=9)
    asked, _ = play(
        nodes, wanted, 60,
        answers=lambda node, number: node > "d020" or number % 3 == 0,
        note=lambda node: Note(5.0 if node > "d050" else 0.01, 0.5, 100.0 if node > "d090" else 1.0),
    )  # fmt: skip
    assert max(waits(asked, nodes).values()) <= 9
    assert {len(chosen) for chosen in asked} == {12}


@given(
    st.sampled_from(STRATEGIES), st.integers(1, 12), st.integers(1, 8),
    st.lists(st.sets(st.integers(0, 29), max_size=20), min_size=20, max_size=40),
)  # fmt: skip
def test_the_bound_holds_whoever_comes_and_goes(strategy, fairness, count, away) -> None:
    """Of the rounds in which a node was here, it never sits out more than the bound in a row."""
    nodes, history, sat = NODES[:30], History(), Counter()
    for number, gone in enumerate(away, 1):
        here = [node for at, node in enumerate(nodes) if at not in gone]
        chosen = set(select(here, history.seen, Wanted(strategy, count, 30, fairness), "job", number))
        for node in here:
            sat[node] = 0 if node in chosen else sat[node] + 1
            assert sat[node] <= fairness
        history.settle(history.after(number, chosen, dict.fromkeys(chosen, 3), {}))


def test_the_largest_round_bounds_fairness_too() -> None:
    """Those who waited longest come first."""
    asked, _ = play(NODES, Wanted(count=10, most=20, fairness=1), 30)
    assert {len(chosen) for chosen in asked} == {20}
    assert max(waits(asked, NODES).values()) == 300 / 20 - 1


def test_availability_prefers_who_answers_but_forgets_nobody() -> None:
    """A node that is away half of the time is asked less, and again once it answers."""
    nodes = NODES[:60]
    flaky = set(nodes[::2])
    asked, history = play(
        nodes, Wanted("available", count=20), 60, answers=lambda node, number: node not in flaky or number > 40
    )
    early = Counter(node for chosen in asked[20:40] for node in chosen)
    assert sum(early[node] for node in flaky) < 0.5 * sum(early[node] for node in set(nodes) - flaky)
    assert all(history.seen[node].reliability > 0.5 for node in set(nodes) - flaky)
    late = Counter(node for chosen in asked[40:] for node in chosen)
    assert sum(late[node] for node in flaky) > sum(early[node] for node in flaky)


def test_utility_prefers_those_with_much_to_learn_from() -> None:
    """A fifth of the nodes has ten times the loss: once all are known they get most of the places."""
    nodes = NODES[:100]
    needy = set(nodes[:20])
    asked, _ = play(
        nodes,
        Wanted("utility", count=10, explore=0.3),
        80,
        note=lambda node: Note(2.0 if node in needy else 0.2, 0.5, 1.0),
    )
    late = Counter(node in needy for chosen in asked[50:] for node in chosen)
    assert late[True] > 0.6 * late.total()


def test_utility_counts_a_slow_node_less_and_the_bound_still_holds() -> None:
    """Four times slower is a sixteenth of the utility; with the bound it has its turn all the same."""
    nodes = NODES[:50]
    slow = set(nodes[:10])

    def note(node):
        return Note(1.0, 0.5, 4.0 if node in slow else 1.0)

    free, _ = play(nodes, Wanted("utility", count=10), 60, note=note)
    count = Counter(node in slow for chosen in free[20:] for node in chosen)
    assert count[True] < 0.1 * count.total()
    bound, _ = play(nodes, Wanted("utility", count=10, fairness=8), 60, note=note)
    assert max(waits(bound, nodes).values()) <= 8


def test_unknown_nodes_get_their_places() -> None:
    """With utility, a share of each round explores until everybody was asked once."""
    asked, _ = play(NODES, Wanted("utility", count=20, explore=0.5), 40)
    assert {node for chosen in asked for node in chosen} == set(NODES)
    assert len({node for chosen in asked[1:11] for node in chosen} - set(asked[0])) >= 100
