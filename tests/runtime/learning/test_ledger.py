"""What each node spent of its own: counted by who was asked, never drawn beyond the budget."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from msrt.learning.ledger import Ledger, Spent

NODES = "abcdef"
ROUNDS = st.lists(st.tuples(st.sets(st.sampled_from(NODES)), st.integers(1, 3)), max_size=30)


@given(ROUNDS, st.integers(1, 6))
def test_no_node_is_asked_more_often_than_its_budget_pays(rounds, limit):
    """Each round may be opened several times, by another process too, and costs whom it asks one."""
    ledger, asked, rows = Ledger(limit), Counter(), {}
    for number, (wanted, tries) in enumerate(rounds, 1):
        able = [node for node in sorted(wanted) if ledger.affords(node, number)]
        asked.update(able)
        for _ in range(tries):
            assert [node for node in able if ledger.affords(node, number)] == able
            rows |= ledger.asked(able, number)
            ledger = Ledger(limit, rows)
    assert {node: row.rounds for node, row in ledger.rows.items()} == dict(asked)
    assert ledger.most == max(asked.values(), default=0) <= limit
    assert ledger.over(len(rounds) + 1) == {node for node, count in asked.items() if count == limit}


def test_a_node_that_says_it_has_spent_all_is_not_asked_again():
    """It trained a lost update again, which nobody else could count."""
    ledger = Ledger(5)
    ledger.asked("ab", 1)
    assert ledger.refused("a", 2) == {"a": Spent(5, 2)}
    assert [node for node in "abc" if ledger.affords(node, 3)] == ["b", "c"]
