"""The attacks of the specification (section 1.5.2), each on our reader and on python-tuf's: both must refuse."""

from __future__ import annotations

import pytest
from tuf.api.metadata import Metadata, Snapshot, Timestamp
from tuf.api.serialization.json import JSONSerializer

from msrt.errors import BadSignature, FrameTooLarge
from msrt.trust.tuf.workflow import TIMESTAMP_LIMIT, Trusted
from msrt_cloud.signing.signed import encode
from tests.runtime.trust.tuf.forge import DAY, NOW, PATH, Forge, Oracle, Ours, at, file_of, key


class Both:
    """Our reader and the oracle over one forge."""

    def __init__(self):
        self.forge = Forge()
        self.ours, self.oracle = Ours(self.forge), Oracle(self.forge)
        self.trust()

    def trust(self, now=NOW):
        assert self.ours.trusts(now=now) == ""
        assert self.oracle.trusts(now=now) == ""

    def refuse(self, why, now=NOW):
        found = self.ours.trusts(now=now)
        assert why in found
        assert found
        assert self.oracle.trusts(now=now) != ""


@pytest.fixture
def both():
    return Both()


def test_a_rotated_root_is_followed(both):
    """Signed by the old key and the new one; then the new one's timestamp counts."""
    both.forge.keys |= {"root": ["root2"], "timestamp": ["timestamp2"]}
    both.forge.root("root")
    both.forge.publish()
    both.trust()


def test_two_rotations_at_once_are_followed(both):
    """Who slept over one takes both, in order."""
    both.forge.keys["root"] = ["root2"]
    both.forge.root("root")
    both.forge.keys["root"] = ["root3"]
    both.forge.root("root2")
    both.forge.publish()
    both.trust()


def test_a_root_that_only_its_own_key_signed_is_refused(both):
    """Nobody becomes root by saying so."""
    both.forge.keys["root"] = ["mallory"]
    both.forge.root()
    both.refuse("bad_signature: the root metadata has 0 of 1")


def test_a_root_cannot_be_skipped(both):
    """Version 3 does not follow on version 1."""
    both.forge.versions["root"] += 1
    both.forge.root()
    both.refuse("not_trusted: after root 1 comes 2, not 3")


def test_an_older_timestamp_is_refused(both):
    """Rollback of everything."""
    old = both.forge.mirror
    both.forge.publish()
    both.trust()
    both.forge.mirror = old
    both.refuse("not_trusted: timestamp 1 is older than 2")


def test_an_older_list_of_targets_is_refused(both):
    """Rollback of one role under a new timestamp, by whoever has the keys of timestamp and snapshot."""
    both.forge.publish()
    both.trust()
    both.forge.publish(bin=1)
    both.refuse("is older than 2")


def test_a_snapshot_that_forgot_a_role_is_refused(both):
    """A role that was there cannot be left out."""
    forge = both.forge
    name = forge.bin
    both.trust()
    forge.publish()
    lacking = Metadata[Snapshot].from_bytes(forge.mirror["snapshot"]).signed
    del lacking.meta[f"{name}.json"]
    forge.mirror["snapshot"] = forge.sign(lacking, "snapshot")
    stamp = Metadata[Timestamp].from_bytes(forge.mirror["timestamp"]).signed
    stamp.snapshot_meta = file_of(lacking.version, forge.mirror["snapshot"])
    forge.mirror["timestamp"] = forge.sign(stamp, "timestamp")
    both.refuse(f"not_trusted: the new snapshot lacks {name}.json")


def test_a_frozen_timestamp_is_refused(both):
    """An attacker who keeps new ones back gains nothing once the last one has ended."""
    both.trust(NOW + 13 * DAY)
    both.refuse("trust_expired: the signed timestamp", NOW + 15 * DAY)


@pytest.mark.parametrize(("what", "role"), [("snapshot_s", "snapshot"), ("targets_s", "targets")])
def test_what_ends_before_the_timestamp_is_refused(both, what, role):
    """Every file on the way must be in force."""
    both.forge.publish(**{what: DAY})
    both.refuse(f"trust_expired: the signed {role}", NOW + 2 * DAY)


def test_an_ended_root_is_refused(both):
    """Unless a newer one follows."""
    both.forge.root(left=DAY)
    both.refuse("trust_expired: the signed root", NOW + 2 * DAY)
    both.forge.root()
    both.trust(NOW + 2 * DAY)


def test_files_of_two_states_do_not_mix(both):
    """A bin of an earlier state under a newer snapshot (mix and match)."""
    old = both.forge.mirror[both.forge.bin]
    both.forge.publish()
    both.forge.mirror[both.forge.bin] = old
    both.refuse("is not the one that was signed for")


def test_a_truncated_file_is_refused(both):
    """Of every role."""
    whole = both.forge.publish()
    for role in whole:
        both.forge.mirror = whole | {role: whole[role][:-1]}
        both.refuse("bad_signature" if role != "timestamp" else "malformed_frame")
    both.forge.mirror = whole
    both.trust()


def test_data_without_an_end_is_refused_by_its_length(both):
    """Longer than was signed, or than any timestamp."""
    whole = both.forge.publish()
    both.forge.mirror = whole | {"snapshot": whole["snapshot"] + b" " * 100_000}
    both.refuse("bytes instead of")
    both.forge.mirror = whole | {"timestamp": whole["timestamp"] + b" " * TIMESTAMP_LIMIT}
    assert "frame_too_large" in both.ours.trusts()


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "models"])
def test_a_wrong_key_is_refused(both, role):
    """Signed by a stranger, in any role."""
    both.forge.signers[role] = ["mallory"]
    both.forge.publish()
    both.refuse("0 of 1 signatures by its present keys")


def test_a_threshold_of_two_is_not_met_by_one(both):
    """Nor by one key that signs twice under two ids."""
    both.forge.keys["timestamp"], both.forge.threshold["timestamp"] = ["timestamp", "second"], 2
    both.forge.root()
    both.forge.signers["timestamp"] = ["timestamp"]
    both.forge.publish()
    both.refuse("1 of 2 signatures by its present keys")
    del both.forge.signers["timestamp"]
    both.forge.publish()
    both.trust()


def test_a_key_counts_once_under_two_ids(both):
    """Here we are stricter than python-tuf."""
    forge = both.forge
    forge.keys["timestamp"], forge.threshold["timestamp"] = ["timestamp", "second"], 2
    root = Metadata.from_bytes(forge.root())
    first, second = root.signed.roles["timestamp"].keyids
    root.signed.keys[second].keyval = dict(root.signed.keys[first].keyval)
    root.signatures.clear()
    root.sign(key("root"))
    forge.roots[-1] = encode(root)
    stamp = Metadata.from_bytes(forge.publish()["timestamp"])
    stamp.signatures[second].signature = stamp.signatures[first].signature
    forge.mirror["timestamp"] = encode(stamp)
    assert "1 of 2 signatures" in both.ours.trusts()


def test_a_key_that_a_rotation_revoked_counts_no_more(both):
    """What it signs afterwards is refused."""
    both.forge.keys["timestamp"] = ["timestamp2"]
    both.forge.root()
    both.forge.publish()
    both.trust()
    both.forge.signers["timestamp"] = ["timestamp"]
    both.forge.publish()
    both.refuse("0 of 1 signatures by its present keys")


def test_versions_that_ran_ahead_go_with_the_keys_that_signed_them(both):
    """Fast-forward: with stolen keys somebody signs version 1000; new keys make all well again."""
    both.forge.publish(timestamp=1000, snapshot=1000)
    both.trust()
    both.forge.keys |= {"timestamp": ["timestamp2"], "snapshot": ["snapshot2"]}
    both.forge.root()
    both.forge.publish(timestamp=3, snapshot=3)
    both.trust()


def test_what_is_signed_must_lie_there_as_it_was_signed():
    """The same content spelled otherwise is refused here, where python-tuf renders it anew."""
    forge = Forge()
    trusted = Trusted(forge.roots[0])
    spaced = Metadata.from_bytes(forge.mirror["timestamp"]).to_bytes(JSONSerializer(compact=False))
    with pytest.raises(BadSignature):
        trusted.add_timestamp(spaced)
    trusted.add_timestamp(forge.mirror["timestamp"])


def test_nobody_signed_an_unknown_path():
    """In a bin that is there, in one that is not, and outside of what anybody speaks for."""
    ours = Ours(Forge())
    for path in ("models/default/net/2", "models/default/other/1", "jobs/one", PATH + "/more", "net"):
        assert "not_trusted: nobody signed" in ours.trusts(path)


def test_a_root_of_any_size_is_refused_unread():
    """Before anything is decoded."""
    with pytest.raises(FrameTooLarge):
        Trusted(b"x" * (64 << 10) + b"x")


def test_a_timestamp_in_force_is_no_news():
    """The same version again changes nothing."""
    forge = Forge()
    trusted = Trusted(forge.roots[0])
    assert trusted.add_timestamp(forge.mirror["timestamp"])
    assert not trusted.add_timestamp(forge.mirror["timestamp"])
    assert trusted.timestamp.expires == at(NOW + 14 * DAY)
