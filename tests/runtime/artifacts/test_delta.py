"""What is fetched and what is copied, in turn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from msrt.artifacts.delta import COPIED, Piece, Seed, batches
from msrt.artifacts.ranges import MOST


def nothing(_offset, _size):
    return b""


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3 * COPIED)), max_size=60))
def test_a_stream_never_waits_for_much_that_is_copied(drawn):
    """Else it is given up for want of progress, on a board whose disk is slow. Nothing is left out, and in order."""
    pieces, offset = list[Piece](), 0
    for fetched, size in drawn:
        pieces.append(Piece(offset, size, None if fetched else Seed(nothing, offset)))
        offset += size
    made = list(batches(pieces))
    assert [piece for batch in made for piece in batch] == pieces
    for batch in made:
        last = max((number for number, piece in enumerate(batch) if piece.seed is None), default=0)
        assert sum(piece.size for piece in batch[:last] if piece.seed is not None) <= COPIED


def test_a_question_has_a_bound():
    """That of the edge that answers it."""
    pieces = [Piece(2 * n, 1, None) for n in range(2 * MOST + 1)]
    assert [len(batch) for batch in batches(pieces)] == [MOST, MOST, 1]
