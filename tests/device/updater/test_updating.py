"""The update of one device, with its process ending at any step."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.protocol import wire
from msrt_device.updater import updating as u
from msrt_device.updater.memory import MemoryBank, MemorySlots
from tests.device.updater.images import agent, reader

IMAGES = {version: agent(version) for version in ("1", "2", "3")}
BY_DIGEST = {image.digest: data for image, data in IMAGES.values()}
TRIAL_S = 100.0


class Ended(Exception):
    """The process is no more."""


class Machine:
    """A device: what is on its disk outlives its processes."""

    def __init__(self) -> None:
        self.bank = MemoryBank("1")
        self.kept = wire.pack(u.Record())
        self.told: list[tuple[str, str, str]] = []
        self.proven: set[str] = set()
        """Versions that were welcomed and tested in one process."""
        self.now = 0.0
        self.budget: int | None = None
        """Actions until the power goes."""
        self.boot()

    def boot(self) -> None:
        slots = MemorySlots(self.bank, self.bank.start(), self.leave)
        self.slots = slots
        record = wire.unpack(self.kept, u.Record)
        self.updating = u.Updating("agent", record, slots.state(), trial_s=TRIAL_S)
        self.work = ""
        self.welcomed = self.tested = self.left = False
        if record.told > len(self.told):
            self.told.append(_outcome(record))
        self.say(self.updating.started(self.now))

    def leave(self) -> None:
        self.left = True

    def say(self, actions) -> None:
        """Do what follows; the power may go before each."""
        try:
            for action in actions:
                self.spend()
                self.do(action)
            self.updating.slots = self.slots.state()
            self.spend()
        except Ended:
            if not self.left:
                self.budget = None  # the power is back
            self.boot()

    def spend(self) -> None:
        if self.left or self.budget == 0:
            raise Ended
        if self.budget is not None:
            self.budget -= 1

    def do(self, action) -> None:
        match action:
            case u.Keep(record, outcome):
                record = msgspec.structs.replace(record, left_s=max(0.0, self.updating.until - self.now))
                if outcome is not None:
                    record = msgspec.structs.replace(record, told=len(self.told) + 1)
                self.kept = wire.pack(record)
                if outcome is not None:
                    if self.budget == 0:
                        raise Ended  # between a record and its event
                    self.told.append((outcome.token, outcome.version, outcome.outcome))
            case u.Fetch() | u.Write() | u.SelfTest():
                self.work = type(action).__name__
                self.image = getattr(action, "image", None)
            case u.StopWork():
                self.work = ""
            case u.Arm():
                self.slots.arm(1, TRIAL_S)
            case u.Disarm():
                self.slots.arm(0, 0.0)
            case u.Restart():
                self.slots.restart()
            case u.Commit():
                version = self.slots.state().running.version
                assert version in self.proven, "committed before it had proven itself"
                self.slots.commit()

    # --- what may happen

    def offer(self, version, token, state="running"):
        proposal = u.Proposal(IMAGES[version][0], token, 50.0, state)
        self.say(self.updating.offered(proposal, self.now))

    def withdraw(self):
        self.say(self.updating.offered(None, self.now))

    def done(self):
        """What is at work comes to its end."""
        work, self.work = self.work, ""
        if work == "Fetch":
            self.say(self.updating.fetched(self.now))
        elif work == "Write":
            self.slots.write(self.image, reader(BY_DIGEST[self.image.digest]))
            self.say(self.updating.written(self.slots.state(), self.now))
        elif work == "SelfTest":
            self.tested = True
            self._prove()
            self.say(self.updating.tested("", self.now))

    def broken(self):
        if self.work == "SelfTest":
            self.work = ""
            self.say(self.updating.tested("net@1: its answer is not finite", self.now))
        elif self.work == "Write":
            self.work = ""
            self.say(self.updating.broken("it cannot be unpacked", self.now))

    def quiet(self):
        self.say(self.updating.quiet(("net@1",), self.now))

    def welcome(self):
        self.welcomed = True
        self._prove()
        self.say(self.updating.welcomed(self.now))

    def _prove(self):
        if self.welcomed and self.tested:
            self.proven.add(self.slots.state().running.version)

    def late(self):
        self.now += TRIAL_S + 1
        self.say(self.updating.tick(self.now))

    def crash(self):
        self.budget = 0
        self.say([u.StopWork()])

    def settle(self):
        """All goes well for long enough."""
        for _ in range(8):
            self.done()
            self.quiet()
            self.welcome()

    @property
    def stage(self):
        return self.updating.record.stage

    @property
    def version(self):
        return self.slots.state().running.version


def _outcome(record):
    return record.token, record.image.version, record.stage.value


def test_a_new_version_is_committed_once_it_was_welcomed_and_tested():
    """Not before: one of them is not enough."""
    device = Machine()
    device.offer("2", "c1")
    device.done()
    device.done()
    assert device.stage is u.Stage.WAITING
    assert device.version == "1"
    device.quiet()
    assert (device.version, device.stage) == ("2", u.Stage.TRIAL)
    device.done()
    assert device.stage is u.Stage.TRIAL
    device.welcome()
    assert device.stage is u.Stage.DONE
    assert device.told == [("c1", "2", "done")]
    device.crash()
    assert (device.version, device.told) == ("2", [("c1", "2", "done")])


@pytest.mark.parametrize("fault", ["crash", "late", "broken"])
def test_whatever_ends_a_trial_brings_back_the_old_version(fault):
    """A crash, an edge that never answers, a model that does not: told once, and the image is refused from then on."""
    device = Machine()
    device.offer("2", "c1")
    device.done()
    device.done()
    device.quiet()
    getattr(device, fault)()
    assert (device.version, device.stage) == ("1", u.Stage.FAILED)
    assert device.told == [("c1", "2", "failed")]
    device.offer("2", "c2")
    assert "failed here before" in device.updating.record.reason
    assert device.told == [("c1", "2", "failed")]
    device.offer("3", "c3")
    device.settle()
    assert device.version == "3"
    device.offer("2", "c4")
    device.settle()
    assert device.version == "2"


def test_a_stuck_update_ends_at_its_deadline_and_the_next_one_begins():
    """Nothing blocks what comes later; that its way was too slow is not held against an image."""
    device = Machine()
    device.offer("2", "c1")
    device.late()
    assert (device.stage, device.told) == (u.Stage.FAILED, [("c1", "2", "failed")])
    device.offer("2", "c1")
    assert device.stage is u.Stage.FAILED
    device.offer("2", "c2")
    device.settle()
    assert device.version == "2"


def test_another_campaign_takes_the_place_of_one_that_is_under_way():
    """The first is cancelled, which is told, and the other one goes through."""
    device = Machine()
    device.offer("2", "c1")
    device.done()
    device.offer("3", "c2")
    device.settle()
    assert device.version == "3"
    assert device.told == [("c1", "2", "cancelled"), ("c2", "3", "done")]


def test_an_emergency_stop_ends_a_trial_but_silence_does_not():
    """An edge that is behind offers nothing: only the word of the campaign counts. The image is not to blame."""
    device = Machine()
    device.offer("2", "c1")
    device.done()
    device.done()
    device.quiet()
    device.withdraw()
    assert device.stage is u.Stage.TRIAL
    device.offer("2", "c1", "stopped")
    assert (device.version, device.stage) == ("1", u.Stage.CANCELLED)
    assert device.told == [("c1", "2", "cancelled")]
    device.offer("2", "c1")
    device.settle()
    assert device.version == "2"


def test_while_paused_nothing_begins_and_nothing_restarts():
    """What is on its way comes as far as the slot."""
    device = Machine()
    device.offer("2", "c1", "paused")
    assert device.stage is u.Stage.IDLE
    device.offer("2", "c1")
    device.offer("2", "c1", "paused")
    device.settle()
    assert (device.version, device.stage) == ("1", u.Stage.WAITING)
    device.offer("2", "c1")
    device.settle()
    assert device.version == "2"


def test_what_runs_already_is_done_without_a_restart():
    """And nothing is told: nothing happened."""
    device = Machine()
    device.offer("1", "c1")
    assert (device.stage, device.told) == (u.Stage.DONE, [])


@pytest.mark.parametrize("how", ["good", "bad"])
def test_the_power_may_go_before_any_step(how):
    """Afterwards a version runs that was in force, what became of it is told once, and the next update goes through."""
    ends = set()
    for after in range(100):
        device = Machine()
        device.budget = after
        device.offer("2", "c1")
        for _ in range(4):
            device.done() if how == "good" or device.work != "SelfTest" else device.broken()
            device.quiet()
            device.welcome()
        spared = device.budget is not None
        device.budget = None
        device.offer("2", "c1")
        device.settle()
        told = [one for one in device.told if one[0] == "c1"]
        assert len(told) == 1
        assert (device.version == "2") == (told[0][2] == "done")
        ends.add(told[0][2])
        device.offer("3", "c2")
        device.settle()
        assert device.version == "3"
        assert device.told[-1] == ("c2", "3", "done")
        if spared:
            break
    assert 8 < after < 99
    assert "done" in ends or how == "bad"


STEPS = st.sampled_from(["done", "broken", "quiet", "welcome", "late", "crash", "withdraw"])
OFFERS = st.tuples(st.sampled_from("123"), st.sampled_from("abc"), st.sampled_from(["running", "paused", "stopped"]))


@settings(max_examples=60)
@given(st.lists(st.one_of(STEPS, OFFERS, st.integers(0, 6)), max_size=40))
def test_whatever_happens_an_agent_is_left_that_can_be_updated(steps):
    """Any order of offers, faults and power cuts: nothing unproven is in force, and a fresh offer goes through."""
    device = Machine()
    device.proven.add("1")
    for step in steps:
        match step:
            case int():
                device.budget = step
            case str():
                getattr(device, step)()
            case version, campaign, state:
                device.offer(version, f"{version}{campaign}", state)
    device.budget = None
    device.crash()
    failed = set(device.updating.record.failed)
    version = next((v for v in "23" if IMAGES[v][0].digest not in failed), "1")
    device.offer(version, "last")
    device.settle()
    if IMAGES[version][0].digest not in failed:
        assert device.version == version
    assert device.version in device.proven
    counts = {token: [t for t in device.told if t[0] == token] for token, _, _ in device.told}
    assert all(sum(t[2] == "done" for t in told) <= 1 for told in counts.values())


def test_no_stage_is_without_an_end():
    """A fault ends each that has work to do; a process that is to leave, and cannot, is told so again."""
    under_way = set(u.Stage) - u.RESTING - {u.Stage.LEAVING}
    assert all(u.TABLE[stage, u.Said.BROKEN] in {u.Stage.FAILED, u.Stage.LEAVING} for stage in under_way)
    assert all((stage, u.Said.LATE) in u.TABLE for stage in under_way)
    device = Machine()
    record = u.Record(stage=u.Stage.LEAVING, image=IMAGES["2"][0], token="t")
    stuck = u.Updating("agent", record, device.slots.state(), trial_s=TRIAL_S)
    assert [actions for now in range(70) if (actions := stuck.tick(float(now)))] == [[u.Disarm(), u.Restart()]] * 3


def table():
    """What leads where, as Markdown."""
    ways = {}
    for (stage, said), following in u.TABLE.items():
        ways.setdefault((said, following), []).append(stage)
    order = list(u.Said)
    rows = [
        f"| {said.value} | {', '.join(sorted(stages, key=list(u.Stage).index))} | {following} |"
        for (said, following), stages in sorted(ways.items(), key=lambda way: order.index(way[0][0]))
    ]
    return "\n".join(["| what happens | in the stage | leads to |", "|---|---|---|", *rows])


def test_the_readme_shows_the_table():
    """As the code has it."""
    assert table() in Path(u.__file__).with_name("README.md").read_text()
