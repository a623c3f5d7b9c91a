from __future__ import annotations

from msrt.learning.selection import draw


def test_a_round_of_too_many_takes_a_part_of_them_and_the_next_one_others() -> None:
    """The same ones when it is opened again, in the order of all; few are taken whole."""
    devices = [f"d{n:03d}" for n in range(300)]
    first = draw(devices, 30, "job", 1)
    assert (len(first), first) == (30, sorted(first))
    assert first == draw(devices, 30, "job", 1)
    assert len({*first, *draw(devices, 30, "job", 2), *draw(devices, 30, "job", 3)}) > 60
    assert draw(devices, 300, "job", 1) == devices
