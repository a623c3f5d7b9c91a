from __future__ import annotations

import pytest

from msrt.learning.aggregate import NormGuard
from msrt.learning.events import (
    Abandon,
    Add,
    Arrived,
    Closed,
    Drop,
    Finish,
    Forget,
    Forward,
    Hold,
    Joined,
    Left,
    Refuse,
    SendSum,
    Tell,
    Tick,
)
from msrt.learning.rounds import GlobalRound, Pace, Phase, RegionRound, Terms
from msrt.protocol.messages import UpdateMeta

ME, OTHER = "edge1/1", "edge2/7"
PACE = Pace(0.0, 10.0, 2)


def meta(*nodes: str, parent: str = ME, samples: int = 10, **more: object) -> UpdateMeta:
    known: dict[str, object] = {"job": "j", "round": 1, "encoding": "int8", "size": 64, **more}
    return UpdateMeta(nodes=dict.fromkeys(nodes, samples), first_parent=parent, **known)  # type: ignore[arg-type]


def region(*expected: str) -> RegionRound:
    return RegionRound("j", 1, 64, ME, expected, PACE)


def world(*participants: str, quorum: int = 2) -> GlobalRound:
    return GlobalRound("j", 1, 64, participants, Pace(0.0, 10.0, quorum))


def test_a_region_sends_its_sum_when_its_devices_have_reported() -> None:
    """Each update is added; the last one seals the sum, with sample-weighted metrics."""
    edge = region("a", "b")
    assert edge.handle(Arrived("k1", meta("a", metrics={"loss": 1.0})), 1.0) == [Add("k1", 10)]
    done = edge.handle(Arrived("k2", meta("b", samples=30, metrics={"loss": 3.0})), 1.1)
    assert done[0] == Add("k2", 30)
    assert isinstance(done[1], SendSum)
    assert done[1].meta.nodes == {"a": 10, "b": 30}
    assert done[1].meta.is_sum
    assert done[1].meta.first_parent == ME
    assert done[1].meta.metrics == {"loss": 2.5}
    assert edge.wake is None


def test_only_the_first_parent_adds() -> None:
    """An update stamped by another parent, or by this edge before it restarted, goes up alone."""
    edge = region("a", "b")
    assert edge.handle(Arrived("k", meta("a", parent=OTHER)), 1.0) == [Forward("k")]
    assert edge.handle(Arrived("k2", meta("b", parent="edge1/0")), 1.0) == [Forward("k2")]
    assert edge.reported == 2


def test_what_comes_after_the_seal_goes_up_alone() -> None:
    """A late device is not lost."""
    edge = region("a")
    edge.handle(Arrived("k", meta("a")), 1.0)
    assert edge.phase is Phase.SEALED
    assert edge.handle(Arrived("k2", meta("late")), 2.0) == [Forward("k2")]


def test_a_region_does_not_wait_for_ever() -> None:
    """A straggler is left behind after the quorum's patience, a region without quorum at the deadline."""
    edge = RegionRound("j", 1, 64, ME, "abc", Pace(0.0, 100.0, 2, patience=3.0, grace=1.0))
    edge.handle(Arrived("k", meta("a")), 1.0)
    assert edge.wake == 100.0
    edge.handle(Arrived("k2", meta("b")), 2.0)
    assert edge.wake == 7.0
    assert edge.handle(Tick(), 6.9) == []
    assert isinstance(edge.handle(Tick(), 7.0)[0], SendSum)
    empty = region("a")
    assert empty.handle(Tick(), 10.0) == []
    assert empty.phase is Phase.SEALED


def test_a_device_that_leaves_is_not_waited_for() -> None:
    """Who joins is waited for, who leaves no longer; what it sent stays."""
    edge = region("a")
    edge.handle(Joined("b"), 0.5)
    assert edge.handle(Arrived("k", meta("a")), 1.0) == [Add("k", 10)]
    assert isinstance(edge.handle(Left("b"), 1.5)[0], SendSum)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (meta("a", size=65), "65 parameters"),
        (meta("a", samples=0), "samples"),
        (meta("a", round=2), "round 2"),
        (meta("a", "b"), "2 nodes"),
        (meta("a", is_sum=True), "a sum, from a device"),
        (meta("a", error="out of memory"), "out of memory"),
    ],
)
def test_a_region_refuses_what_is_wrong_and_says_so(bad: UpdateMeta, why: str) -> None:
    """The sender is told; the cloud as well where it concerns this round; a good update later still counts."""
    edge = region("a", "b")
    actions = edge.handle(Arrived("k", bad), 1.0)
    assert isinstance(actions[0], Refuse)
    assert why in actions[0].error
    assert all(isinstance(action, Tell) for action in actions[1:])
    assert edge.handle(Arrived("k2", meta("a")), 2.0) == [Add("k2", 10)]


def test_a_fault_is_told_once() -> None:
    """A device that repeats its mistake does not flood the cloud."""
    edge = region("a", "b")
    event = Arrived("k", meta("a"), fault="the update holds NaN")
    assert [type(action) for action in edge.handle(event, 1.0)] == [Refuse, Tell]
    assert [type(action) for action in edge.handle(event, 1.1)] == [Refuse]


def test_a_huge_norm_is_refused() -> None:
    """The guard is asked before anything is added, on both floors."""
    guard = NormGuard(limit=5.0)
    edge = RegionRound("j", 1, 64, ME, "a", PACE, guard)
    assert isinstance(edge.handle(Arrived("k", meta("a"), norm=6.0), 1.0)[0], Refuse)
    cloud = GlobalRound("j", 1, 64, "ab", PACE, guard)
    assert isinstance(cloud.handle(Arrived("k", meta("a", "b", is_sum=True), norm=6.0), 1.0)[0], Refuse)
    assert cloud.included == {}


def test_a_closed_region_forgets() -> None:
    """Once the cloud has checkpointed, payloads go and what still comes is dropped."""
    edge = region("a", "b")
    edge.handle(Arrived("k", meta("a")), 1.0)
    assert edge.handle(Closed(), 2.0) == [Forget()]
    assert edge.handle(Closed(), 2.0) == []
    assert isinstance(edge.handle(Arrived("k2", meta("b")), 3.0)[0], Drop)


def test_the_cloud_ends_when_everybody_is_there() -> None:
    """Sums are added at once, singles when the round ends."""
    cloud = world("a", "b", "c")
    assert cloud.handle(Arrived("s", meta("a", "b", is_sum=True, metrics={"loss": 1.0})), 1.0) == [Add("s", 20)]
    done = cloud.handle(Arrived("k", meta("c", parent=OTHER, samples=20, metrics={"loss": 2.0})), 1.5)
    assert done == [Hold("k"), Add("k", 20), Finish({"a": 10, "b": 10, "c": 20}, {}, {"loss": 1.5})]


def test_a_single_gives_way_to_a_sum_that_contains_it() -> None:
    """The device whose edge died after its sum went up counts once."""
    cloud = world("a", "b", "c")
    assert cloud.handle(Arrived("k", meta("a")), 1.0) == [Hold("k")]
    added = cloud.handle(Arrived("s", meta("a", "b", is_sum=True)), 1.1)
    assert added == [Add("s", 20), Drop("k", "a sum contains it")]
    assert isinstance(cloud.handle(Arrived("k2", meta("a")), 1.2)[0], Drop)


def test_sums_are_added_once_and_never_overlap() -> None:
    """The same sum again, or another with a node that is in already, is dropped."""
    cloud = world("a", "b", "c", "d")
    cloud.handle(Arrived("s", meta("a", "b", is_sum=True)), 1.0)
    assert cloud.handle(Arrived("s2", meta("a", "b", is_sum=True)), 1.1) == [Drop("s2", "the same sum again")]
    overlap = cloud.handle(Arrived("s3", meta("b", "c", parent=OTHER, is_sum=True)), 1.2)
    assert overlap == [Drop("s3", "a sum that overlaps another")]
    assert cloud.included == {"a": 10, "b": 10}


def test_a_round_without_quorum_is_given_up() -> None:
    """At the deadline, or at once when too many have failed; nothing is counted."""
    cloud = world("a", "b", "c")
    cloud.handle(Arrived("k", meta("a")), 1.0)
    late = cloud.handle(Tick(), 10.0)
    assert late[0] == Drop("k", "the round was given up")
    assert late[1] == Abandon("1 of 3 nodes reported, the quorum is 2", {})
    cloud = world("a", "b")
    cloud.handle(Arrived("e", meta("a", error="no data")), 1.0)
    done = cloud.handle(Arrived("e2", meta("b", error="no torch")), 1.1)
    assert done[-1] == Abandon("0 of 2 nodes reported, the quorum is 2", {"a": "no data", "b": "no torch"})


def test_the_cloud_waits_for_the_living_only() -> None:
    """With a quorum it ends when all others have failed or gone; who came back is waited for."""
    cloud = world("a", "b", "c", "d")
    cloud.handle(Left("c"), 0.5)
    cloud.handle(Left("d"), 0.5)
    cloud.handle(Joined("d"), 0.6)
    cloud.handle(Arrived("s", meta("a", "b", is_sum=True)), 1.0)
    assert cloud.phase is Phase.OPEN
    done = cloud.handle(Arrived("e", meta("d", error="out of memory")), 2.0)
    assert isinstance(done[-1], Finish)
    assert done[-1].included == {"a": 10, "b": 10}
    assert done[-1].failed == {"d": "out of memory"}


def test_strangers_do_not_count() -> None:
    """An update of a node that does not take part is refused, alone or in a sum."""
    cloud = world("a", "b")
    for event in (Arrived("k", meta("x")), Arrived("s", meta("a", "x", is_sum=True))):
        refused = cloud.handle(event, 1.0)
        assert isinstance(refused[0], Refuse)
        assert "do not take part" in refused[0].error
    assert cloud.included == {}
    assert cloud.failed == {"a": "an update of nodes that do not take part"}


def test_who_took_part_before_the_cloud_died_still_counts() -> None:
    """A sum that was made for an earlier opening of the round is whole; the quorum is of those who take part now."""
    cloud = GlobalRound("j", 1, 64, "ab", Pace(0.0, 10.0, 2), known="abxy")
    assert cloud.handle(Arrived("s", meta("a", "x", is_sum=True)), 1.0) == [Add("s", 20)]
    assert cloud.handle(Arrived("k", meta("y", parent=OTHER)), 1.1) == [Hold("k")]
    assert isinstance(cloud.handle(Arrived("t", meta("z")), 1.2)[0], Refuse)
    assert cloud.phase is Phase.OPEN
    done = cloud.handle(Arrived("l", meta("b", parent=OTHER)), 1.3)[-1]
    assert isinstance(done, Finish)
    assert set(done.included) == {"a", "b", "x", "y"}


def test_a_region_whose_rule_needs_all_holds_them_to_the_end() -> None:
    """And then adds them at once, each shortened to the clip, and sends one sum."""
    edge = RegionRound("j", 1, 64, ME, "ab", PACE, terms=Terms(most=1, least=2, clip=1.0))
    assert edge.waits(meta("a"))
    assert edge.handle(Arrived("k1", meta("a"), norm=4.0), 1.0) == [Hold("k1")]
    held, *added, sent = edge.handle(Arrived("k2", meta("b", samples=30), norm=0.5), 1.1)
    assert held == Hold("k2")
    assert added == [Add("k1", 1, 0.25), Add("k2", 1, 1.0)]
    assert isinstance(sent, SendSum)
    assert sent.meta.nodes == {"a": 1, "b": 1}


def test_a_region_with_too_few_for_its_rule_passes_them_on_alone() -> None:
    """Now and what comes later: the cloud may have enough of them."""
    edge = RegionRound("j", 1, 64, ME, "ab", PACE, terms=Terms(least=3))
    edge.handle(Arrived("k1", meta("a")), 1.0)
    assert edge.handle(Arrived("k2", meta("b")), 1.1) == [Hold("k2"), Forward("k1"), Forward("k2")]
    assert edge.handle(Arrived("k3", meta("c")), 1.2) == [Forward("k3")]
    assert edge.handle(Arrived("k4", meta("a")), 1.3) == [Drop("k4", "a duplicate")]
    assert edge.reported == 3


def test_what_is_stamped_for_another_does_not_go_up_alone_where_a_region_has_a_rule() -> None:
    """Neither what comes too late: liars would meet among the singles, and be the most there."""
    edge = RegionRound("j", 1, 64, ME, "abcd", Pace(0.0, 10.0, 4), terms=Terms(least=3))
    (dropped,) = edge.handle(Arrived("k0", meta("a", parent=OTHER)), 1.0)
    assert isinstance(dropped, Drop)
    for number, node in enumerate("bcd", 1):
        edge.handle(Arrived(f"k{number}", meta(node)), 1.0)
    assert isinstance(edge.handle(Tick(), 10.0)[-1], SendSum)
    (dropped,) = edge.handle(Arrived("k4", meta("a")), 10.1)
    assert isinstance(dropped, Drop)


def test_singles_that_are_too_few_for_the_rule_do_not_count() -> None:
    """Neither in the sum nor to the quorum: one alone could say anything."""
    for quorum, end in ((4, Abandon), (3, Finish)):
        cloud = GlobalRound("j", 1, 64, "abcde", Pace(0.0, 10.0, quorum), terms=Terms(least=3))
        cloud.handle(Arrived("s", meta("a", "b", "c", is_sum=True)), 1.0)
        cloud.handle(Arrived("k", meta("d")), 1.0)
        dropped, last = cloud.handle(Tick(), 10.0)
        assert isinstance(dropped, Drop)
        assert isinstance(last, end)
        if isinstance(last, Abandon):
            assert last.reason == "3 of 5 nodes reported, the quorum is 4"
        else:
            assert dropped == Drop("k", "1 alone, the rule needs 3")
            assert last.included == {"a": 10, "b": 10, "c": 10}


def test_a_sum_of_fewer_than_the_rule_needs_is_refused() -> None:
    """An honest region passes so few on alone."""
    cloud = GlobalRound("j", 1, 64, "abc", Pace(0.0, 10.0, 3), terms=Terms(least=3))
    (refused,) = cloud.handle(Arrived("s", meta("a", "b", is_sum=True)), 1.0)
    assert isinstance(refused, Refuse)
    assert "a sum of 2 updates, the rule needs 3" in refused.error


def test_a_sum_is_refused_where_every_update_counts_alone() -> None:
    """Nobody may speak for others there."""
    cloud = GlobalRound("j", 1, 64, "abc", Pace(0.0, 10.0, 3), terms=Terms(alone=True, least=3))
    (refused,) = cloud.handle(Arrived("s", meta("a", "b", is_sum=True)), 1.0)
    assert isinstance(refused, Refuse)
    assert "every update counts alone" in refused.error


def late(key: str, node: str, round_: int) -> Arrived:
    return Arrived(key, meta(node, round=round_), norm=1.0)


def test_a_buffer_of_stale_updates_moves_the_model_less() -> None:
    """FedBuff: the mean is over whole samples, each update shortened by its age: three rounds old, a half."""
    cloud = GlobalRound("j", 5, 64, "ab", Pace(0.0, 10.0, 1), terms=Terms(since=1, goal=2))
    cloud.handle(late("old", "a", 2), 1.0)
    done = cloud.handle(late("older", "b", 2), 1.1)
    assert [action for action in done if isinstance(action, Add)] == [Add("old", 10, 0.5), Add("older", 10, 0.5)]


def test_a_late_update_weighs_less_beside_fresh_ones() -> None:
    """Where rounds are of their own nodes, its weight is discounted: alone it would count whole."""
    cloud = GlobalRound("j", 5, 64, "ab", Pace(0.0, 10.0, 1), terms=Terms(since=1))
    cloud.handle(late("old", "a", 2), 1.0)
    cloud.handle(late("fresh", "a", 5), 1.0)
    done = cloud.handle(late("other", "b", 5), 1.1)
    added = {action.key: action for action in done if isinstance(action, Add)}
    assert added == {"old": Add("old", 5.0), "fresh": Add("fresh", 10.0), "other": Add("other", 10.0)}
