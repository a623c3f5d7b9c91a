"""When a campaign goes on, and when it stops."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from msrt.journal.updates import UpdateSet, group_of, holding
from msrt.protocol.messages import DeviceRecord, UpdateState
from msrt_cloud.rollout import Seen
from msrt_cloud.updates_campaign import GRACE_S, SILENT_S, Campaign, Standing, surplus

FACT = UpdateSet("agent@2", "agent", "2", groups=(0.5, 1.0), deadline_s=100.0, began=1.0)


def device(number, **state):
    updates = (UpdateState("agent", **{"version": "1", **state}),) if state is not None else ()
    return Seen("north", DeviceRecord(f"node-{number}", f"d{number}", True, "x86_64", {}, (), updates=updates))


def of_group(group, count, fact=FACT):
    """Numbers of devices in that group."""
    found = [number for number in range(1000) if group_of(fact, f"node-{number}") == group]
    return found[:count]


def looked(fact, *devices, seats=None, now=0.0, wall=0.0):
    """The move that one look at these devices makes."""
    return Campaign(fact, {} if seats is None else seats).observe(devices, now, wall)[0]


def done(number):
    return device(number, version="2", stage="done", token=FACT.token)


def failed(number):
    return device(number, stage="failed", reason="it crashed", token=FACT.token)


def test_the_next_group_begins_when_this_one_runs_it():
    """Only devices of the group count, and all of the last one are waited for."""
    first, second = of_group(0, 4), of_group(1, 2)
    others = [device(number) for number in second]
    assert looked(FACT, *map(done, first[:3]), device(first[3]), *others) is None
    move = looked(FACT, *map(done, first), *others)
    assert (move.standing, move.group) == (Standing.RUNNING, 1)
    last = msgspec.structs.replace(FACT, group=1)
    assert looked(last, *map(done, first), done(second[0]), device(second[1])) is None
    assert looked(last, *map(done, [*first, *second])).standing is Standing.DONE


def test_too_many_errors_stop_it_and_say_whose():
    """More than the share; what an operator has forgiven neither counts again nor keeps a group from passing."""
    numbers = of_group(0, 10)
    bad = [*map(done, numbers[:8]), *map(failed, numbers[8:])]
    move = looked(FACT, *bad)
    assert move.standing is Standing.STOPPED
    assert "2 of 10 devices failed" in move.reason
    assert "it crashed" in move.reason
    assert looked(msgspec.structs.replace(FACT, forgiven=2), *bad).group == 1


def test_a_group_that_cannot_succeed_any_more_stops_it():
    """Errors below their threshold, and yet too few that came through: nobody waits for ever."""
    numbers = of_group(0, 10)
    move = looked(FACT, *map(done, numbers[:9]), failed(numbers[9]))
    assert move.standing is Standing.STOPPED
    assert "only 9 of 10" in move.reason


def test_a_silent_device_counts_as_an_error_after_its_deadline():
    """Also when it is away: its seat is known. It may still come to it later."""
    [number] = of_group(0, 1)
    seats = {}
    assert looked(FACT, device(number, stage="fetching", token=FACT.token), seats=seats) is None
    move = looked(FACT, seats=seats, wall=100.0 + GRACE_S + 1)
    assert move.standing is Standing.STOPPED
    assert "last seen fetching" in move.reason
    looked(msgspec.structs.replace(FACT, state="stopped"), done(number), seats=seats, wall=200.0)
    assert seats[f"node-{number}"].outcome == "done"


def test_a_soak_begins_when_the_group_has_succeeded():
    """And the next group begins when it is over."""
    fact = msgspec.structs.replace(FACT, soak_s=60.0)
    campaign = Campaign(fact, {})
    devices = [*map(done, of_group(0, 3)), *map(device, of_group(1, 1))]
    assert campaign.observe(devices, 0.0, 0.0)[0] is None
    assert campaign.observe(devices, 59.0, 59.0)[0] is None
    assert campaign.observe(devices, 60.0, 60.0)[0].group == 1


def test_who_cannot_be_updated_counts_for_nothing():
    """A device without slots is told apart from one that has only not spoken yet."""
    first = of_group(0, 2)
    seats = {}
    bare = Seen("north", DeviceRecord(f"node-{first[1]}", "bare", True, "x86_64", {}, ()))
    assert looked(FACT, done(first[0]), bare, seats=seats) is None
    assert looked(FACT, done(first[0]), bare, seats=seats, wall=SILENT_S + 1).group == 1
    assert seats[f"node-{first[1]}"].outcome == "skipped"


@pytest.mark.parametrize("state", ["paused", "stopped"])
def test_nobody_begins_while_it_does_not_run(state):
    """Who is new gets no seat; who has one is watched."""
    campaign = Campaign(msgspec.structs.replace(FACT, state=state), {})
    assert campaign.observe([device(number) for number in of_group(0, 3)], 0.0, 0.0) == (None, [])


def test_on_trial_is_not_there_yet():
    """The device runs the version, and may still go back."""
    [number] = of_group(0, 1)
    assert looked(FACT, device(number, version="2", stage="trial", token=FACT.token)) is None


def test_an_empty_group_is_passed_over_once_anybody_is_known():
    """With nobody at all it waits."""
    [number] = of_group(1, 1)
    assert looked(FACT) is None
    assert looked(FACT, device(number)).group == 1


def test_a_device_follows_the_newest_campaign_that_has_come_to_it():
    """Not a newer one whose group is not yet its own, nor one that its labels do not match."""
    number = of_group(1, 1)[0]
    old = UpdateSet("agent@1", "agent", "1", state="done", began=0.5)
    labels = {"site": "a"}
    assert holding([old, FACT], "agent", f"node-{number}", labels) is old
    opened = msgspec.structs.replace(FACT, group=1)
    assert holding([old, opened], "agent", f"node-{number}", labels) is opened
    elsewhere = msgspec.structs.replace(opened, selector="site=b")
    assert holding([old, elsewhere], "agent", f"node-{number}", labels) is old
    assert holding([opened], "system", f"node-{number}", labels) is None


def over(number, state="done", selector="", group=0, kind="agent"):
    return UpdateSet(f"{kind}@{number}", kind, str(number), selector, group=group, state=state, began=float(number))


def test_campaigns_that_are_over_and_replaced_are_surplus_beyond_those_that_stay():
    """The newest that are over stay, and whatever still says what a device should run, however old."""
    every = [over(number) for number in range(1, 6)]
    assert surplus(every, 2) == every[2::-1]
    assert surplus(every, 5) == []
    assert surplus([over(1, "running"), over(2, "paused"), over(3), over(4)], 1) == [over(3)]
    mine = over(1, selector="site=a")
    assert surplus([mine, over(2, selector="site=b"), over(3, selector="site=b")], 1) == [over(2, selector="site=b")]
    assert surplus([mine, over(2)], 1) == [mine]
    assert surplus([mine, over(2, kind="system")], 1) == []
    unfinished = msgspec.structs.replace(over(2, "stopped"), groups=(0.5, 1.0))
    assert surplus([mine, unfinished], 1) == []


def test_no_device_is_told_anything_else_once_the_surplus_is_forgotten():
    """Whatever campaigns there were, with whatever selectors and groups."""
    random = Random(1)
    for _ in range(200):
        campaigns = [
            UpdateSet(
                f"agent@{number}", "agent", str(number), random.choice(["", "site=a", "site=b"]), (0.5, 1.0),
                group=random.randrange(2), state=random.choice(["done", "stopped", "running"]), began=float(number),
            )
            for number in range(8)
        ]  # fmt: skip
        left = [one for one in campaigns if one not in surplus(campaigns, 1)]
        for node in range(6):
            labels = {"site": "ab"[node % 2]}
            before, after = (holding(some, "agent", f"node-{node}", labels) for some in (campaigns, left))
            assert before == after
