"""Durable queues: outbox, inbox, shared commits."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from msrt.errors import CallerError, DiskFull, Overloaded
from msrt.journal import Commits, Inbox, Outbox, Overflow, commit_all
from msrt.world.memory import MemoryDisk
from tests.runtime.journal.test_writer import Slow


def outbox(place, bound=10_000, **more):
    return Outbox(place.store("box"), "up", bound_bytes=bound, **more)


def test_only_what_is_on_disk_is_sent():
    """A message is handed out after its commit, with the number it was given."""
    box = outbox(MemoryDisk())
    assert box.next_seq == 1
    assert box.put(b"one") == 1
    assert box.unacked() == []
    box.commit()
    assert box.unacked() == [(1, b"one")]


def test_a_restart_goes_on_where_the_queue_was():
    """Unacknowledged messages are there, acknowledged ones are not, and no number comes twice."""
    place = MemoryDisk()
    box = outbox(place)
    for n in range(1, 6):
        box.put(b"%d" % n)
    box.commit()
    box.ack(2)
    box.commit()
    place = place.crash()
    box = outbox(place)
    assert [seq for seq, _ in box.unacked()] == [3, 4, 5]
    assert len(box) == 3
    box.ack(5)
    box.commit()
    box = outbox(place.crash())
    assert (len(box), box.size, box.next_seq) == (0, 0, 6)


def test_an_acknowledgement_of_what_was_never_sent_is_ignored():
    """A peer that claims too much, or the same again, changes nothing."""
    box = outbox(MemoryDisk())
    box.put(b"1")
    box.commit()
    box.put(b"2")
    assert box.ack(99) == 1
    assert box.ack(1) == 0
    assert len(box) == 1


def test_the_oldest_go_when_events_do_not_fit():
    """Bounded in bytes, counted over restarts, the newest kept."""
    place = MemoryDisk()
    box = outbox(place, bound=1000)
    for n in range(100):
        box.put(bytes(80))
        assert box.size <= 1000
        if n % 7 == 0:
            box.commit()
    box.commit()
    assert box.dropped == 100 - len(box)
    assert box.unacked()[-1][0] == 100
    again = outbox(place.crash(), bound=1000)
    assert (again.dropped, len(again), again.size, again.next_seq) == (box.dropped, len(box), box.size, 101)


def test_what_must_not_be_lost_is_refused_instead():
    """Policy REFUSE says Overloaded, and takes again after an acknowledgement."""
    box = outbox(MemoryDisk(), bound=400, overflow=Overflow.REFUSE)
    while box.size + 100 < 400:
        box.put(bytes(80))
    held = len(box)
    with pytest.raises(Overloaded):
        box.put(bytes(80))
    box.commit()
    box.ack(1)
    box.put(bytes(80))
    assert len(box) == held
    assert box.dropped == 0


def test_one_message_may_not_push_out_the_rest():
    """A message of more than a quarter of the bound is refused."""
    with pytest.raises(Overloaded):
        outbox(MemoryDisk(), bound=1000).put(bytes(300))


def test_old_messages_expire():
    """With a bound in age, what is too old goes and is counted."""
    now = [0.0]
    box = outbox(MemoryDisk(), max_age_s=10.0, wall=lambda: now[0])
    for n in range(20):
        now[0] = float(n)
        box.put(b"%d" % n)
    box.commit()
    assert box.expire() == 9
    assert box.unacked()[0] == (10, b"9")
    assert box.dropped == 9
    with pytest.raises(CallerError):
        outbox(MemoryDisk(), max_age_s=1.0)


def test_a_full_disk_bounds_the_memory():
    """Messages wait in memory up to a bound, then `put` says DiskFull; with space again all that was taken goes out."""
    place = MemoryDisk()
    box = outbox(place, bound=100 << 20)
    place.full = True
    taken = 11
    for _ in range(taken):
        box.put(bytes(100_000))
        with pytest.raises(DiskFull):
            box.commit()
    with pytest.raises(DiskFull):
        box.put(bytes(100_000))
    assert box.unacked() == []
    place.full = False
    box.commit()
    assert len(box.unacked(limit=1000)) == taken
    box.put(b"on")


def test_shared_store_commits_all_queues_or_none():
    """Two queues and an inbox on one store become durable together."""
    place = MemoryDisk()
    store = place.store("events")
    one, two, inbox = (Outbox(store, "a", bound_bytes=1000), Outbox(store, "b", bound_bytes=1000), Inbox(store))
    one.put(b"1")
    two.put(b"2")
    inbox.mark("dev", "events", 1)
    place.full = True
    with pytest.raises(DiskFull):
        commit_all(store, one, two)
    assert one.stuck
    assert (one.unacked(), two.unacked()) == ([], [])
    place.full = False
    commit_all(store, one, two)
    assert (one.unacked(), two.unacked(), one.stuck) == ([(1, b"1")], [(1, b"2")], False)
    assert Inbox(place.crash().store("events")).seen("dev", "events", 1)


def test_inbox_takes_each_number_once_in_any_order():
    """Exact over reordering, two ways and restarts; one range in the end."""
    place = MemoryDisk()
    inbox = Inbox(place.store("s"))
    numbers = [*range(1, 200), *range(50, 150)]
    random.Random(3).shuffle(numbers)
    news = [n for n in numbers if inbox.mark("dev", "events", n)]
    assert sorted(news) == list(range(1, 200))
    place.store("s").commit()
    again = Inbox(place.crash().store("s"))
    assert again._seen == {"inbox/dev/events": [(1, 199)]}
    assert not again.mark("dev", "events", 120)
    assert again.mark("dev", "events", 200)
    assert again.mark("other", "events", 120)


def test_inbox_knows_what_never_came():
    """Gaps are counted, and the oldest is closed when there are too many."""
    inbox = Inbox(MemoryDisk().store("s"))
    for n in range(2, 12, 2):
        inbox.mark("dev", "events", n)
    assert inbox.missing("dev", "events") == 4
    assert inbox.high_water("dev", "events") == 10
    for n in range(100, 3000, 2):
        inbox.mark("dev", "events", n)
    assert len(inbox._seen["inbox/dev/events"]) == 512
    inbox.forget("dev")
    assert inbox.high_water("dev", "events") == 0


def test_commits_are_shared():
    """All that wait share one; who comes while one runs waits for the next, as his writes may have missed it."""

    async def main():
        slow, done = Slow(), []
        commits = Commits(lambda: done.append(1), slow)
        first = [asyncio.create_task(commits.commit()) for _ in range(10)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        late = asyncio.create_task(commits.commit())
        await asyncio.sleep(0)
        slow.gate.set()
        await asyncio.gather(*first, late)
        assert len(done) == 2

    asyncio.run(main())


def test_a_failed_commit_fails_all_who_wait():
    """And the next one is tried afresh."""

    async def main():
        place = MemoryDisk()
        box = outbox(place)
        commits = Commits(box.commit, Slow())
        commits._offload.gate.set()
        box.put(b"1")
        place.full = True
        results = await asyncio.gather(*(commits.commit() for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [DiskFull] * 3
        place.full = False
        await commits.commit()
        assert box.unacked() == [(1, b"1")]

    asyncio.run(main())


class Way:
    """An outbox here, an inbox there, and everything between them that can go wrong."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.near, self.far = MemoryDisk(), MemoryDisk()
        self.put: dict[int, bytes] = {}
        self.sure: set[int] = set()
        self.open_near()
        self.open_far()

    def open_near(self):
        self.box = outbox(self.near, bound=1 << 20, overflow=Overflow.REFUSE)
        self.put = {seq: data for seq, data in self.put.items() if seq < self.box.next_seq}

    def open_far(self):
        self.inbox = Inbox(self.far.store("s"))

    def write(self):
        data = b"%d" % self.rng.getrandbits(30)
        self.put[self.box.put(data)] = data

    def commit(self):
        with contextlib.suppress(DiskFull):
            self.box.commit()
            self.sure = set(self.put)

    def deliver(self, loss=0.2):
        for seq, data in self.box.unacked(limit=1000):
            if self.rng.random() < loss:
                break
            if self.inbox.mark("near", "up", seq):
                self.far.store("s").append("log", b"%d:" % seq + data)
        with contextlib.suppress(DiskFull):
            self.far.store("s").commit()
            if self.rng.random() < 0.6:
                self.box.ack(self.inbox.high_water("near", "up"))

    def crash_near(self):
        self.near = self.near.crash()
        self.near.full = False
        self.open_near()

    def crash_far(self):
        self.far = self.far.crash()
        self.far.full = False
        self.open_far()

    def fill(self):
        disk = self.rng.choice((self.near, self.far))
        disk.full = not disk.full


@pytest.mark.parametrize("seed", range(20))
def test_any_schedule_delivers_each_message_once(seed):
    """Losses, crashes on both sides and full disks: whatever was put and committed arrives exactly once in order of
    number, and nothing arrives that was not put."""
    way = Way(seed)
    acts = (way.write, way.commit, way.deliver, way.crash_near, way.crash_far, way.fill)
    for _ in range(300):
        way.rng.choices(acts, (40, 20, 25, 5, 5, 5))[0]()
    way.near.full = way.far.full = False
    way.commit()
    way.deliver(loss=0.0)
    arrived = [record for _, record in way.far.store("s").read("log", limit=10_000)]
    assert arrived == [b"%d:" % seq + data for seq, data in sorted(way.put.items())]
    assert way.sure <= set(way.put)
