"""A follower's copy."""

from __future__ import annotations

import msgspec
import pytest

from msrt.errors import BadSignature, DiskFull, JournalDiverged, JournalGap, MalformedFrame
from msrt.journal import GLOBAL, Block, Snapshot
from msrt.trust.identity import Purpose
from tests.runtime.journal.rig import OTHER, SIGN, catch_up, device, disk, model, open_log, open_replica, rollout, same


def test_a_block_travels_as_a_message():
    """What leaves the master as message and frame is the same block at the replica, and checks."""
    log, replica = open_log(disk()), open_replica(disk())
    log.append(model(1))
    block = log.next_block(GLOBAL, 0)
    again = Block.received(block.message(), memoryview(block.payload))
    assert again == block
    assert [entry for _, entry in replica.apply(again)] == [model(1)]
    assert replica.positions == {GLOBAL: 1, "eu": 0}


@pytest.mark.parametrize("field", ["log", "epoch", "scope", "prev", "first", "last", "payload", "signature"])
def test_a_changed_block_is_refused(field):
    """Every field of a block is under the signature."""
    log, replica = open_log(disk()), open_replica(disk())
    log.append(model(1))
    block = log.next_block(GLOBAL, 0)
    value = getattr(block, field)
    other = value + 1 if isinstance(value, int) else value[:-1] + ("x" if isinstance(value, str) else b"x")
    with pytest.raises(BadSignature):
        replica.apply(msgspec.structs.replace(block, **{field: other}))
    assert not replica.state.models


def test_another_clouds_block_is_refused():
    """A valid signature by another key is none."""
    log = open_log(disk(), sign=OTHER.signer(Purpose.JOURNAL))
    log.append(model(1))
    with pytest.raises(BadSignature):
        open_replica(disk()).apply(log.next_block(GLOBAL, 0))


def test_a_block_that_contradicts_itself_is_refused():
    """Even a signed one: offsets that run backwards, or do not match the header."""
    packed = [(2, b"\x80"), (1, b"\x80")]
    block = Block.make("log-a", 1, GLOBAL, 0, packed, SIGN)
    with pytest.raises(MalformedFrame):
        open_replica(disk()).open(block)


def test_a_gap_is_seen():
    """A missing block is told by `prev`, and nothing of the later one is in force."""
    log, replica = open_log(disk()), open_replica(disk())
    log.append(model(1))
    log.append(device(1))
    log.append(model(2))
    with pytest.raises(JournalGap):
        replica.apply(log.next_block(GLOBAL, 1))
    assert not replica.state.models
    catch_up(log, replica)
    assert same(log, replica)


def test_a_block_seen_before_changes_nothing():
    """Duplicates and overlaps give only what is new."""
    log, replica = open_log(disk()), open_replica(disk())
    log.append(model(1))
    first = log.next_block(GLOBAL, 0)
    log.append(model(2))
    both = log.next_block(GLOBAL, 0)
    assert len(replica.apply(first)) == 1
    assert replica.apply(first) == []
    assert [offset for offset, _ in replica.apply(both)] == [2]
    assert replica.apply(both) == []


def test_a_crash_forgets_only_what_was_not_committed():
    """`durable` says what a restart finds; the master gives the rest again."""
    log, place = open_log(disk()), disk()
    replica = open_replica(place)
    log.append(model(1))
    catch_up(log, replica)
    replica.commit()
    log.append(model(2))
    catch_up(log, replica)
    assert (replica.positions[GLOBAL], replica.durable[GLOBAL]) == (2, 1)
    again = open_replica(place.crash())
    assert again.positions[GLOBAL] == 1
    assert (again.log_id, again.epoch) == (log.log_id, log.epoch)
    catch_up(log, again)
    assert same(log, again)


def test_a_block_cut_by_a_crash_overlaps_what_is_on_disk():
    """A replica that has the first half of a joined block reloads and goes on in the middle of it."""
    log, place = open_log(disk()), disk()
    replica = open_replica(place)
    log.append(model(1))
    catch_up(log, replica)
    log.append(model(2))
    replica.apply(log.next_block(GLOBAL, 0))
    replica.commit()
    again = open_replica(place.crash())
    assert again.positions[GLOBAL] == 2
    assert again.state.snapshot() == replica.state.snapshot()


def test_compacting_keeps_the_state_over_a_restart():
    """Snapshot plus tail on the replica's own disk; the blocks below are gone from it."""
    log, place = open_log(disk()), disk()
    replica = open_replica(place)
    for version in range(1, 20):
        log.append(rollout(version), device(version))
        catch_up(log, replica)
    replica.compact(replica.freeze())
    log.append(model(1))
    catch_up(log, replica)
    replica.commit()
    again = open_replica(place.crash())
    assert same(log, again)
    assert len(place.store("journal").read("block/global")) == 1


def test_a_snapshot_travels_as_a_stream():
    """Meta and payload make the same snapshot; a changed byte of either is refused."""
    log, replica = open_log(disk()), open_replica(disk())
    log.append(model(1), device(1))
    snapshot = log.seal(GLOBAL, log.freeze(GLOBAL)[GLOBAL])
    again = Snapshot.received(snapshot.meta(), snapshot.payload)
    assert again == snapshot
    with pytest.raises(BadSignature):
        replica.apply(Snapshot.received({**snapshot.meta(), "offset": 9}, snapshot.payload))
    with pytest.raises(BadSignature):
        replica.apply(Snapshot.received(snapshot.meta(), snapshot.payload[:-1] + b"x"))
    with pytest.raises(MalformedFrame):
        Snapshot.received({"log": 1}, b"")
    replica.apply(again)
    assert replica.positions[GLOBAL] == 1


def test_a_snapshot_is_not_a_block():
    """A signature over one kind cannot be passed off as the other: both say what they are."""
    log = open_log(disk())
    log.append(model(1))
    snapshot = log.seal(GLOBAL, log.freeze(GLOBAL)[GLOBAL])
    forged = Block(snapshot.log, snapshot.epoch, GLOBAL, 0, 1, 1, snapshot.signature, snapshot.payload)
    with pytest.raises(BadSignature):
        open_replica(disk()).apply(forged)


def test_another_log_stops_the_replica():
    """A master with another journal behind the same key is refused."""
    log, other = open_log(disk()), open_log(disk(), log_id="log-b")
    replica = open_replica(disk())
    log.append(model(1))
    other.append(model(1), model(2))
    catch_up(log, replica)
    with pytest.raises(JournalDiverged):
        replica.apply(other.next_block(GLOBAL, 1))


def test_scopes_that_are_followed_no_more_are_forgotten():
    """An edge that moved to another region drops the old one's devices."""
    log, place = open_log(disk()), disk()
    replica = open_replica(place)
    log.append(model(1), device(1), device(2, "us"))
    catch_up(log, replica)
    replica.commit()
    moved = open_replica(place.crash(), GLOBAL, "us")
    assert not moved.state.nodes
    catch_up(log, moved)
    assert set(moved.state.nodes) == {"node2"}
    assert moved.state.models


def test_a_full_disk_does_not_stop_the_following_at_once():
    """Blocks are in force with the disk full, and durable once it takes them; a long-full disk says so."""
    log, place = open_log(disk()), disk()
    replica = open_replica(place)
    place.full = True
    log.append(model(1))
    catch_up(log, replica)
    with pytest.raises(DiskFull):
        replica.commit()
    assert replica.state.models
    assert replica.durable[GLOBAL] == 0
    place.full = False
    replica.commit()
    assert replica.durable[GLOBAL] == 1
    replica._taken += 9 << 20
    log.append(model(2))
    with pytest.raises(DiskFull):
        catch_up(log, replica)
