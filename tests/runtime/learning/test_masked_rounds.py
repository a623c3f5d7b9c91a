"""Rounds of masked updates: what a region does with them, and how the cloud weighs a sum of nobody knows whom."""

from __future__ import annotations

from msrt.learning.events import Add, Arrived, Drop, Finish, Lost, Refuse, SendSum, Tell
from msrt.learning.notes import Note, pack
from msrt.learning.rounds import GlobalRound, Pace, RegionRound, Stretch, Terms
from msrt.learning.vector import Layout, save
from msrt.protocol.messages import Secured, UpdateMeta
from tests.runtime.learning.test_rounds import ME, OTHER, PACE, meta

HERE = Secured("j/1.0/edge1/1/1")


def region(*expected: str) -> RegionRound:
    return RegionRound("j", 1, 64, ME, expected, PACE, terms=Terms(masked=True))


def masked(node: str, **more: object) -> UpdateMeta:
    return meta(node, samples=1, encoding="secure", secure=HERE, **more)


def test_a_masked_update_is_added_or_refused_and_never_passed_on() -> None:
    """Alone it says nothing to the cloud: late, or for another edge's sum, it is refused and its node reported."""
    edge = region("a", "b", "c")
    assert edge.handle(Arrived("k1", masked("a")), 1.0) == [Add("k1", 1)]
    assert edge.handle(Arrived("k2", masked("b", parent=OTHER)), 1.0)[-1] == Tell("b", edge.failed["b"])
    edge.handle(Arrived("k3", masked("c")), 1.0)
    late = edge.handle(Arrived("k4", masked("b")), 2.0)
    assert isinstance(late[0], Refuse)
    assert "after the region's sum was sealed" in late[0].error


def test_a_sum_whose_masks_stay_on_is_nobodys() -> None:
    """Everybody in it is reported failed, with the reason, and nobody reported."""
    edge = region("a", "b", "c")
    for node in "abc":
        actions = edge.handle(Arrived(node, masked(node)), 1.0)
    assert isinstance(actions[-1], SendSum)
    assert edge.handle(Lost("1 of 3 said their shares"), 5.0) == [
        Tell(node, "1 of 3 said their shares") for node in "abc"
    ]
    assert edge.reported == 0
    assert edge.handle(Arrived("a2", masked("a")), 6.0)[0] == Refuse("a2", ("a",), edge.failed["a"])


def test_the_cloud_weighs_a_masked_sum_by_all_its_samples() -> None:
    """Two regions: each counts as the samples of all its nodes together, and never more than they may have."""
    cloud = GlobalRound("j", 1, 64, ["a", "b", "c"], Pace(0.0, 10.0, 3), terms=Terms(most=100))
    one = meta("a", "b", samples=1, is_sum=True, secure=Secured(samples=70), metrics={"loss": 1.0})
    (added,) = cloud.handle(Arrived("s1", one), 1.0)
    assert added == Add("s1", 70)
    other = meta("c", samples=1, parent=OTHER, is_sum=True, secure=Secured(samples=10**9), metrics={"loss": 3.0})
    actions = cloud.handle(Arrived("s2", other), 1.0)
    assert actions[0] == Add("s2", 100)
    (finish,) = [one for one in actions if isinstance(one, Finish)]
    assert set(finish.included) == {"a", "b", "c"}
    assert finish.metrics["loss"] == (70 + 300) / 170


def test_the_sum_of_another_exchange_that_overlaps_is_dropped() -> None:
    """An edge that died with its sum made and one that took its devices: nobody counts twice."""
    cloud = GlobalRound("j", 1, 64, ["a", "b", "c", "d"], Pace(0.0, 10.0, 4), terms=Terms(most=100))
    cloud.handle(Arrived("s1", meta("a", "b", samples=1, is_sum=True, secure=Secured(samples=7))), 1.0)
    again = meta("b", "c", samples=1, parent=OTHER, is_sum=True, secure=Secured(samples=7))
    assert cloud.handle(Arrived("s2", again), 1.0) == [Drop("s2", "a sum that overlaps another")]


def test_steps_of_a_region_count_the_most_samples_of_any() -> None:
    """Whose samples nobody knows singly."""
    layout = Layout(())
    stretch = Stretch(save(layout, layout.flatten({})))
    for samples in (5, 9, 7):
        one = meta("a", "b", samples=1, is_sum=True, secure=Secured(samples=samples), notes=pack([Note(), Note()]))
        stretch.step(one, layout.flatten({}))
    assert stretch.meta().secure.samples == 9
