"""The rollout machine: on when proven, back when bad, and never stuck."""

from __future__ import annotations

import pytest

from msrt import errors
from msrt.dispatch.canary import is_canary, parse_canary
from msrt.protocol.messages import DeviceRecord, ModelState
from msrt_cloud.rollout import Decision, Pace, Rollout, Seen, Stage


def seen(node: str, region: str = "north", state: str = "ready", **more) -> Seen:
    models = (ModelState("m", 2, "fp32", state, **more),) if state else ()
    return Seen(region, DeviceRecord(node, node, True, "x86", {}, models))


def rollout(stage: Stage = Stage.CANARY, canary: str = "north") -> Rollout:
    return Rollout("m", 2, canary, stage, pace=Pace(window_s=5.0), now=0.0)


def test_a_canary_that_stays_healthy_for_the_window_goes_live():
    """Ready devices are watched for the window, then the rest get it."""
    one = rollout()
    fleet = [seen("a"), seen("b", "south", state="")]
    assert one.observe(fleet, 1.0) is None
    assert one.observe(fleet, 5.9) is None
    decision = one.observe(fleet, 6.1)
    assert decision is not None
    assert decision.stage is Stage.LIVE


def test_a_canary_that_fails_to_load_rolls_back_and_names_the_device():
    """One failed device is enough, and the reason says which and why."""
    decision = rollout().observe([seen("a", state="failed", error="bad graph")], 1.0)
    assert decision == Decision(Stage.ROLLED_BACK, "a could not load it: bad graph")


def test_a_device_that_tries_again_is_named_with_its_error():
    """While it tries, and in the reason if it took too long; it does not roll anything back before."""
    one = rollout()
    fleet = [seen("a"), seen("b", state="fetching", error="no memory is left")]
    assert one.observe(fleet, 1.0) is None
    assert one.troubles == ["b: no memory is left"]
    decision = one.observe(fleet, 121.0)
    assert decision is not None
    assert decision.reason == "1 devices were not ready after 120 s (b: no memory is left)"


def test_failing_requests_roll_back():
    """An unhealthy version goes back although it loaded."""
    decision = rollout().observe([seen("a", requests=100, failures=10)], 1.0)
    assert decision is not None
    assert decision.stage is Stage.ROLLED_BACK


def test_a_few_failures_among_many_requests_are_no_reason():
    """The share counts, not the number alone."""
    assert rollout().observe([seen("a", requests=1000, failures=4)], 1.0) is None


def test_a_live_one_that_nobody_has_is_watched_when_somebody_comes():
    """However late: the fleet of a cloud that starts, or behind a partition, is empty, and that proves nothing."""
    for state, stage in (("ready", Stage.DONE), ("failed", Stage.ROLLED_BACK)):
        one = rollout(Stage.LIVE, "")
        assert one.observe([], 1.0) is None
        assert one.observe([], 5000.0) is None
        assert one.observe([seen("a", state="fetching")], 5100.0) is None
        one.observe([seen("a", state=state)], 5101.0)
        one.observe([seen("a", state=state)], 5107.0)
        assert one.stage is stage


def test_a_device_that_never_gets_ready_rolls_back():
    """A wait has a deadline."""
    one = rollout()
    assert one.observe([seen("a", state="fetching")], 100.0) is None
    decision = one.observe([seen("a", state="fetching")], 121.0)
    assert decision is not None
    assert decision.stage is Stage.ROLLED_BACK


def test_live_is_done_when_every_device_is_ready():
    """The last stage also waits for the window."""
    one = rollout(Stage.LIVE)
    assert one.observe([seen("a"), seen("b", "south")], 1.0) is None
    decision = one.observe([seen("a"), seen("b", "south")], 7.0)
    assert decision is not None
    assert decision.stage is Stage.DONE


def test_a_share_chooses_the_same_devices_each_time():
    """About the share of many devices, always the same ones."""
    chosen = [n for n in range(1000) if is_canary("20%", "r", f"node{n}", "m")]
    assert 150 < len(chosen) < 250
    assert chosen == [n for n in range(1000) if is_canary("20%", "r", f"node{n}", "m")]


@pytest.mark.parametrize("text", ["0%", "101%", "x%", "-3%"])
def test_an_impossible_share_is_refused(text):
    """The error says what a share looks like."""
    with pytest.raises(errors.InvalidAddress, match="1% to 100%"):
        parse_canary(text)


def test_a_canary_that_is_silent_is_given_time():
    """Silence proves nothing: only after as long as a device may take to get ready does nobody mean nobody."""
    one = rollout()
    assert one.observe([seen("a")], 10.0) is None
    assert one.observe([], 100.0) is None
    assert one.observe([seen("a")], 101.0) is None
    assert one.observe([], 220.0) is None
    decision = one.observe([], 222.0)
    assert decision == Decision(Stage.LIVE, "no matching device")
