"""The master's log on a disk that fails."""

from __future__ import annotations

import contextlib
import random

import pytest

from msrt.errors import Conflict, Corrupt, DiskFull, Forbidden, FrameTooLarge, JournalDiverged
from msrt.journal import CLOUD, GLOBAL, Log, facts
from msrt.protocol.messages import Follow
from msrt.world.memory import MemoryDisk
from msrt.world.sqlite import SqliteStore
from tests.runtime.journal.rig import SIGN, catch_up, device, disk, model, open_log, open_replica, rollout, same


def test_one_block_per_scope_and_batch():
    """A batch is signed once per scope, and `prev` chains each scope although offsets count over all."""
    log = open_log(disk())
    log.append(model(1), device(1), model(2), device(2))
    log.append(device(3))
    world, eu, more = log.next_block(GLOBAL, 0), log.next_block("eu", 0), log.next_block("eu", 4)
    assert (world.prev, world.first, world.last) == (0, 1, 3)
    assert (eu.first, eu.last) == (2, 5)
    assert (more.prev, more.first, more.last) == (4, 5, 5)


def test_a_restart_brings_the_same_state():
    """What was appended is there after a crash, at the same offsets, under the same log id."""
    place = disk()
    log = open_log(place)
    log.append(model(1), device(1), facts.InviteSpent("i", "n"))
    again = open_log(place.crash(), log_id="ignored")
    assert again.log_id == "log-a"
    assert again.state.snapshot() == log.state.snapshot()
    assert (again.offset, again.positions) == (log.offset, log.positions)


def test_a_restart_from_sqlite(tmp_path):
    """The same on a real file, over snapshot and tail."""
    store = SqliteStore(tmp_path / "journal.sqlite")
    log = open_log_on(store)
    for version in range(1, 20):
        log.append(model(version), rollout(version))
    compact(log)
    log.append(rollout(1))
    store.close()
    again = open_log_on(SqliteStore(tmp_path / "journal.sqlite"))
    assert again.state.snapshot() == log.state.snapshot()


def open_log_on(store):
    return Log(store, SIGN, log_id="log-a", epoch=1)


def compact(log):
    frozen = log.freeze()
    log.compact(frozen)
    log.compacted(frozen)
    log.flush()


def test_a_full_disk_refuses_and_forgets():
    """An append that hits a full disk changes nothing, then or after space came, then or after a restart."""
    place = disk()
    log = open_log(place)
    log.append(model(1))
    before = log.state.snapshot()
    place.full = True
    for _ in range(3):
        with pytest.raises(DiskFull):
            log.append(model(2), device(7))
    assert log.state.snapshot() == before
    assert log.next_block(GLOBAL, 1) is None
    place.full = False
    log.append(rollout(1))
    assert log.offset == 2
    again = open_log(place.crash())
    assert set(again.state.models["digits"]) == {1}
    assert not again.state.nodes
    assert again.state.snapshot() == log.state.snapshot()


def test_a_refused_append_stays_refused_when_only_a_later_commit_writes_it():
    """The store may commit a failed batch later; the log has taken it back by then."""
    place = disk()
    log = open_log(place)
    log.append(model(1))
    place.full = True
    with pytest.raises(DiskFull):
        log.append(model(2))
    place.full = False
    place.store("journal").commit()
    again = open_log(place.crash())
    assert set(again.state.models["digits"]) == {1}
    assert again.append(model(3)) == 2


def test_failed_appends_do_not_pile_up():
    """While the disk is full the store's buffer holds one failed batch, however many were tried."""
    place = disk()
    log = open_log(place)
    place.full = True
    for _ in range(50):
        with pytest.raises(DiskFull):
            log.append(model(1))
    assert len(place.store("journal").read("block/global")) == 2


def test_an_entry_too_large_for_a_packet_is_refused():
    """It never gets as far as the store."""
    with pytest.raises(FrameTooLarge):
        open_log(disk()).append(facts.ModelPushed("m", 1, b"x" * (300 << 10), b""))


def test_blocks_fit_a_packet():
    """A huge batch is cut; every block is far below a packet's megabyte, and nothing is missing."""
    log = open_log(disk())
    log.append(
        *[facts.ModelPushed("m", n, bytes(100 << 10), b"") for n in range(1, 12)], *[model(n) for n in range(1, 2000)]
    )
    after, seen = 0, 0
    while block := log.next_block(GLOBAL, after):
        assert block.prev == after
        assert len(block.payload) <= 400 << 10
        after, seen = block.last, seen + len(block.packed)
    assert seen == 2010


def test_small_blocks_are_joined_for_who_is_far_behind():
    """A thousand appends of long ago cost a follower a few signatures."""
    log = open_log(disk())
    for version in range(1, 1001):
        log.append(model(version))
    replica = open_replica(disk())
    assert catch_up(log, replica) <= 3
    assert same(log, replica)


def test_who_is_behind_the_tail_gets_a_snapshot():
    """After two compactions the old blocks are gone, and a newcomer loads the snapshot and the tail."""
    log = open_log(disk())
    old = open_replica(disk())
    for version in range(1, 30):
        log.append(model(version), rollout(version), device(version))
        if version == 5:
            catch_up(log, old)
        if version in {10, 20}:
            compact(log)
    assert log.needs_snapshot(GLOBAL, 0)
    with pytest.raises(Conflict):
        log.next_block(GLOBAL, old.positions[GLOBAL])
    new = open_replica(disk())
    for replica in (old, new):
        catch_up(log, replica)
        assert same(log, replica)


def test_a_compaction_that_finds_the_disk_full_loses_nothing():
    """It is tried again; the log goes on, before and after a restart."""
    place = disk()
    log = open_log(place)
    log.append(*[rollout(n) for n in range(1, 100)])
    place.full = True
    frozen = log.freeze()
    log.compact(frozen)
    log.compacted(frozen)
    with pytest.raises(DiskFull):
        log.flush()
    assert open_log_after_crash(place).state.snapshot() == log.state.snapshot()


def open_log_after_crash(place):
    heir = place.crash()
    heir.full = False
    return open_log(heir)


def test_the_cloud_scope_is_not_served():
    """Invites do not leave the cloud."""
    with pytest.raises(Forbidden):
        open_log(disk()).check(Follow("", 0, {CLOUD: 0}))


def test_another_log_is_refused():
    """A replica of another tree's journal stops."""
    log = open_log(disk())
    with pytest.raises(JournalDiverged):
        log.check(Follow("log-b", 1, {GLOBAL: 0}))


def test_a_follower_ahead_of_its_master_is_refused():
    """A master that comes back from an old copy does not feed who has seen more."""
    place = disk()
    log = open_log(place, epoch=100)
    log.append(model(1))
    backup = copy(place)
    log.append(model(2))
    replica = open_replica(disk())
    catch_up(log, replica)
    restored = open_log(backup, epoch=200)
    with pytest.raises(JournalDiverged):
        restored.check(replica.follow())


def test_a_restored_master_that_wrote_on_is_found_out():
    """Its offsets have passed the follower's by then; its epochs give it away, even if the lost one had restarted."""
    place = disk()
    open_log(place, epoch=100).append(model(1))
    backup = copy(place)
    log = open_log(place, epoch=150)
    log.append(model(2))
    replica = open_replica(disk())
    catch_up(log, replica)
    restored = open_log(backup, epoch=200)
    restored.append(rollout(1), rollout(1), rollout(1))
    with pytest.raises(JournalDiverged):
        restored.check(replica.follow())


def test_a_follower_from_before_the_backup_goes_on():
    """Who shares all of its history with the restored master is fed."""
    place = disk()
    log = open_log(place, epoch=100)
    log.append(model(1))
    replica = open_replica(disk())
    catch_up(log, replica)
    restored = open_log(copy(place), epoch=200)
    restored.append(model(2))
    catch_up(restored, replica)
    assert same(restored, replica)


def test_starts_that_wrote_nothing_leave_no_epochs():
    """A master that restarts a thousand times does not carry a thousand epochs."""
    place = disk()
    for epoch in range(1, 30):
        log = open_log(place, epoch=epoch)
    assert len(log._epochs) == 1
    assert log.epoch == 29


def test_a_damaged_store_is_named():
    """A block that cannot be read stops the start with Corrupt, not with a traceback."""
    place = disk()
    open_log(place).append(model(1))
    image = place._images["journal"]
    image.records["block/global"][0] = (1, b"\xc1 garbage")
    with pytest.raises(Corrupt):
        open_log(place.crash())


def copy(place):
    """A backup of a disk."""
    other = MemoryDisk()
    for name, image in place._images.items():
        kept = other._images.setdefault(name, type(image)())
        kept.records = {log: list(records) for log, records in image.records.items()}
        kept.last, kept.pairs = dict(image.last), dict(image.pairs)
    return other


@pytest.mark.parametrize("seed", range(25))
def test_any_schedule_keeps_what_was_acknowledged(seed):
    """Appends, full disks, crashes and compactions in any order: what was acknowledged is there, in order, once, what
    was refused is not, and a replica that lives through crashes of its own agrees with the master."""
    rng = random.Random(seed)
    place, away = disk(), disk()
    log, replica = open_log(place), open_replica(away)
    kept: list[facts.Entry] = []
    for step in range(120):
        act = rng.random()
        if act < 0.55:
            entries = [rng.choice((model, rollout, device))(step * 10 + n) for n in range(rng.randint(1, 4))]
            try:
                log.append(*entries)
                kept += entries
            except DiskFull:
                pass
        elif act < 0.65:
            place.full = not place.full
        elif act < 0.72:
            place = place.crash()
            place.full = False
            log = open_log(place, epoch=step)
        elif act < 0.78:
            with contextlib.suppress(DiskFull):
                compact(log)
        elif act < 0.90:
            catch_up(log, replica)
            assert same(log, replica)
            if rng.random() < 0.6:
                replica.commit()
        elif act < 0.95:
            replica.compact(replica.freeze())
        else:
            away = away.crash()
            replica = open_replica(away)
    place = place.crash()
    place.full = False
    log = open_log(place, epoch=1000)
    assert set(log.state.nodes) == {e.node for e in kept if isinstance(e, facts.NodeEnrolled)}
    assert set(log.state.models.get("digits", {})) == {e.version for e in kept if isinstance(e, facts.ModelPushed)}
    last = [e for e in kept if isinstance(e, facts.RolloutSet)]
    assert log.state.rollouts.get("digits") == (last[-1] if last else None)
    assert log.offset == len(kept)
    catch_up(log, replica)
    assert same(log, replica)
