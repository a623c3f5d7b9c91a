"""Group commit and tails."""

from __future__ import annotations

import asyncio
import threading

import pytest

from msrt.errors import DiskFull, InviteSpent, JournalDiverged, LocalError, MalformedFrame, Overloaded
from msrt.journal import GLOBAL, Block, Snapshot, Writer, facts
from msrt.journal import writer as module
from msrt.journal.updates import UpdateSet
from msrt.protocol.messages import Follow
from tests.runtime.journal.rig import catch_up, device, disk, model, open_log, open_replica, rollout, same


async def inline(work, *args):
    return work(*args)


async def threaded(work, *args):
    return await asyncio.get_running_loop().run_in_executor(None, work, *args)


class Slow:
    """An offload that waits until it is let go, as a slow disk does."""

    def __init__(self):
        self.gate = asyncio.Event()
        self.calls = 0

    async def __call__(self, work, *args):
        self.calls += 1
        await self.gate.wait()
        return work(*args)


def test_callers_share_a_commit():
    """What is asked while a commit runs rides in the next one, and each returns with its entries in force."""

    async def main():
        slow = Slow()
        writer = Writer(open_log(disk()), slow)
        tasks = [asyncio.create_task(writer.append(device(n))) for n in range(50)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not writer.state.nodes
        slow.gate.set()
        await asyncio.gather(*tasks)
        assert len(writer.state.nodes) == 50
        assert slow.calls <= 2
        assert list(writer.state.nodes) == [f"node{n}" for n in range(50)]

    asyncio.run(main())


def test_all_of_a_failed_batch_hear_of_it():
    """A full disk is each caller's error, nothing is in force, and the writer works on when there is space."""
    place = disk()

    async def main():
        writer = Writer(open_log(place), inline)
        place.full = True
        results = await asyncio.gather(*(writer.append(device(n)) for n in range(5)), return_exceptions=True)
        assert [type(result) for result in results] == [DiskFull] * 5
        assert not writer.state.nodes
        place.full = False
        await writer.append(device(9))
        assert set(writer.state.nodes) == {"node9"}

    asyncio.run(main())
    assert set(open_log(place.crash()).state.nodes) == {"node9"}


def test_a_bad_entry_is_its_callers_alone():
    """Others in the same moment are not touched by it."""

    async def main():
        writer = Writer(open_log(disk()), inline)
        results = await asyncio.gather(
            writer.append(device(1)), writer.append(facts.RolloutSet("m", "one")), return_exceptions=True
        )
        assert results[0] is None
        assert isinstance(results[1], MalformedFrame)

    asyncio.run(main())


def test_a_decision_sees_all_before_it():
    """Of many that want the same invite at once, one gets it; plain appends before it are in force when it looks."""

    async def main():
        writer = Writer(open_log(disk()), threaded)

        def spend(node):
            def decide(state):
                assert "node1" in state.nodes
                if ("spent", "i") in {entry.key for _, entry in state.facts(facts.CLOUD)}:
                    raise InviteSpent("invite i was used before")
                return [facts.InviteSpent("i", node)]

            return writer.decide(decide)

        first = asyncio.create_task(writer.append(device(1)))
        results = await asyncio.gather(*(spend(f"n{n}") for n in range(8)), return_exceptions=True)
        await first
        assert results[0] == [facts.InviteSpent("i", "n0")]
        assert all(isinstance(result, InviteSpent) for result in results[1:])

    asyncio.run(main())


def test_a_decision_may_write_nothing_or_fail():
    """Neither disturbs the others."""

    async def main():
        writer = Writer(open_log(disk()), inline)
        assert await writer.decide(lambda _state: []) == []
        with pytest.raises(ZeroDivisionError):
            await writer.decide(lambda _state: [1 // 0])
        await writer.append(device(1))

    asyncio.run(main())


def test_a_fact_takes_the_place_of_the_one_that_was_looked_at_and_of_no_other():
    """Two who looked at the same: the second one changes nothing, and hears so."""

    async def main():
        writer = Writer(open_log(disk()), inline)
        one, two, three = (UpdateSet("agent@1", "agent", "1", group=number) for number in range(3))
        assert not await writer.replace(one, two)
        await writer.append(one)
        assert await asyncio.gather(writer.replace(one, two), writer.replace(one, three)) == [True, False]
        assert writer.state.updates == {"agent@1": two}

    asyncio.run(main())


def test_a_cancelled_caller_does_not_take_others_along():
    """Who leaves leaves; the batch is written."""

    async def main():
        slow = Slow()
        writer = Writer(open_log(disk()), slow)
        one, two = (asyncio.create_task(writer.append(device(n))) for n in range(2))
        await asyncio.sleep(0)
        one.cancel()
        slow.gate.set()
        await two
        await writer.close()
        assert set(writer.state.nodes) == {"node0", "node1"}

    asyncio.run(main())


def test_the_queue_is_bounded(monkeypatch):
    """A disk that does not move is told to the callers, not paid for in memory."""
    monkeypatch.setattr(module, "QUEUE_LIMIT", 3)

    async def main():
        slow = Slow()
        writer = Writer(open_log(disk()), slow)
        tasks = [asyncio.create_task(writer.append(device(n))) for n in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await asyncio.gather(*(writer.append(device(n)) for n in range(10, 15)))
        slow.gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_a_broken_disk_leaves_nobody_waiting():
    """Any error of the store reaches the callers, and the next append tries again."""

    async def main():
        log = open_log(disk())
        writer = Writer(log, threaded)
        commit = log._store.commit
        log._store.commit = lambda: (_ for _ in ()).throw(LocalError("the disk is gone"))
        with pytest.raises(LocalError):
            await writer.append(device(1))
        log._store.commit = commit
        await writer.append(device(2))
        assert set(writer.state.nodes) == {"node2"}

    asyncio.run(main())


def test_listeners_hear_of_what_came_into_force():
    """In order, with offsets, after it is durable."""

    async def main():
        writer = Writer(open_log(disk()), inline)
        heard = []
        writer.subscribe(heard.extend)
        await writer.append(model(1), model(2))
        await writer.append(rollout(2))
        assert heard == [(1, model(1)), (2, model(2)), (3, rollout(2))]

    asyncio.run(main())


async def follow_along(writer, replica, until):
    async for piece in writer.tail(replica.follow()):
        replica.apply(Block.received(piece.message(), piece.payload) if isinstance(piece, Block) else piece)
        if until(replica):
            return


def test_a_tail_brings_the_past_and_what_comes():
    """A follower gets all it lacks, then each batch as it is appended, on a thread-pool's timing."""

    async def main():
        writer = Writer(open_log(disk()), threaded)
        await writer.append(*[device(n) for n in range(100)], model(1))
        replica = open_replica(disk())
        done = asyncio.create_task(
            follow_along(writer, replica, lambda r: "node299" in r.state.nodes and 9 in r.state.models["digits"])
        )
        for n in range(100, 300):
            await writer.append(device(n))
        await writer.append(model(9))
        await asyncio.wait_for(done, 10)
        assert same(writer.log, replica)

    asyncio.run(main())


def test_a_tail_begins_with_a_snapshot_where_blocks_are_gone():
    """The writer compacts by itself; a newcomer then loads a snapshot."""

    async def main():
        writer = Writer(open_log(disk()), threaded, compact_every=50)
        for n in range(200):
            await writer.append(device(n % 20))
        pieces = []
        replica = open_replica(disk())

        def done(replica):
            return replica.positions["eu"] == 200

        async for piece in writer.tail(replica.follow()):
            pieces.append(type(piece))
            replica.apply(piece)
            if done(replica):
                break
        assert pieces[0] is Snapshot
        assert same(writer.log, replica)

    asyncio.run(main())


def test_a_tail_refuses_who_is_ahead():
    """Before anything is sent."""

    async def main():
        writer = Writer(open_log(disk()), inline)
        with pytest.raises(JournalDiverged):
            await anext(writer.tail(Follow("log-a", 1, {GLOBAL: 5})))

    asyncio.run(main())


def test_a_compaction_on_a_full_disk_does_not_stop_the_writer():
    """It is logged and tried again; appends go on when there is space."""
    place = disk()

    async def main():
        writer = Writer(open_log(place), inline, compact_every=5)
        for n in range(4):
            await writer.append(device(n))
        stage = writer.log.compact

        def fill(frozen):
            stage(frozen)
            place.full = True

        writer.log.compact = fill
        await writer.append(device(4))
        await writer.close()
        with pytest.raises(DiskFull):
            await writer.append(device(5))
        place.full = False
        await writer.append(device(6))
        replica = open_replica(disk())
        catch_up(writer.log, replica)
        assert same(writer.log, replica)

    asyncio.run(main())
    assert set(open_log(place.crash()).state.nodes) == {f"node{n}" for n in (0, 1, 2, 3, 4, 6)}


def test_a_replica_may_compact_in_a_thread_while_blocks_come():
    """The two never lose one another's work."""
    log, place = open_log(disk()), disk()
    replica = open_replica(place)
    thread = threading.Thread()
    for n in range(400):
        log.append(device(n % 50), rollout(n + 1))
        catch_up(log, replica)
        if not thread.ident or not thread.is_alive():
            frozen = replica.freeze()
            thread = threading.Thread(target=lambda held=frozen: (replica.compact(held), replica.commit()))
            thread.start()
    thread.join()
    replica.commit()
    assert same(log, open_replica(place.crash()))
