from __future__ import annotations

import itertools
import os
import random
import stat

import pytest
import zmq
from zmq.utils import z85

from msrt.errors import BadSignature, Corrupt, KeysExposed, NotFound
from msrt.protocol.address import check_node, node_id
from msrt.trust import Identity, Purpose, link_public, verify


def test_link_public_is_curves_own():
    """The X25519 public key is the one that libzmq derives from the same secret."""
    for _ in range(20):
        identity = Identity.generate(os.urandom)
        assert z85.decode(zmq.curve_public(z85.encode(identity.link_secret))) == identity.link_public
        assert link_public(identity.link_secret) == identity.link_public


def test_a_curve_keypair_of_zmq_is_understood():
    """The other way round: a pair that zmq made has the public key that we derive."""
    public, secret = zmq.curve_keypair()
    assert link_public(z85.decode(secret)) == z85.decode(public)


def test_node_id_is_the_hash_of_the_key():
    """A node's id follows from its public key and is a well-formed node id."""
    identity = Identity.generate(os.urandom)
    assert identity.node == node_id(identity.public) == check_node(identity.node)


def test_a_seed_gives_the_same_node():
    """In simulation keys come from the seed."""
    one, two = (Identity.generate(random.Random(7).randbytes) for _ in range(2))
    assert one.node == two.node
    assert one.link_secret == two.link_secret


def test_saved_and_loaded(tmp_path):
    """An identity comes back from disk, in a file that only its owner may read."""
    path = tmp_path / "identity.json"
    identity = Identity.generate(os.urandom)
    identity.save(path)
    again = Identity.load(path)
    assert (again.node, again.public, again.link_secret) == (identity.node, identity.public, identity.link_secret)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["identity.json"]


def test_saved_over_an_exposed_file(tmp_path):
    """Saving over a readable file, or beside a leftover draft, leaves one private file."""
    path = tmp_path / "identity.json"
    path.write_text("old")
    path.chmod(0o644)
    (tmp_path / "identity.json.new").write_text("left by a crash")
    Identity.generate(os.urandom).save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["identity.json"]


def test_a_missing_identity_says_how_to_get_one(tmp_path):
    """No file: the error names the way in."""
    with pytest.raises(NotFound, match="msrt invite"):
        Identity.load(tmp_path / "identity.json")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_an_exposed_key_is_refused(tmp_path, mode):
    """A key that others on the machine may read is not used."""
    path = tmp_path / "identity.json"
    Identity.generate(os.urandom).save(path)
    path.chmod(mode)
    with pytest.raises(KeysExposed, match="chmod 600"):
        Identity.load(path)


def test_every_flipped_bit_on_disk_is_found():
    """A damaged file is refused, or still holds the very same keys: it never becomes another node."""
    identity = Identity.generate(os.urandom)
    data = identity.to_bytes()
    for at, bit in itertools.product(range(len(data)), range(8)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << bit
        try:
            again = Identity.from_bytes(bytes(damaged))
        except Corrupt:
            continue
        assert (again.node, again.link_secret) == (identity.node, identity.link_secret)


def test_signatures_hold():
    """What a node signed is accepted under its key, for its purpose."""
    identity = Identity.generate(os.urandom)
    verify(identity.public, b"data", identity.sign(b"data", Purpose.JOURNAL), Purpose.JOURNAL)
    verify(identity.public, b"data", identity.signer(Purpose.JOURNAL)(b"data"), Purpose.JOURNAL)


@pytest.mark.parametrize(("made", "claimed"), list(itertools.permutations(Purpose, 2)))
def test_no_signature_serves_two_purposes(made, claimed):
    """A signature made for one purpose is refused for each other one."""
    identity = Identity(b"1" * 32, b"2" * 32)
    with pytest.raises(BadSignature):
        verify(identity.public, b"data", identity.sign(b"data", made), claimed)


@pytest.mark.parametrize(
    ("public", "signature"), [(b"", b"\0" * 64), (b"\0" * 31, b"\0" * 64), (b"\xff" * 32, b"\0" * 64), (b"1" * 32, b"")]
)
def test_nonsense_is_a_bad_signature(public, signature):
    """Keys and signatures of any shape give the typed error and nothing else."""
    with pytest.raises(BadSignature):
        verify(public, b"data", signature, Purpose.JOURNAL)


def test_secrets_stay_out_of_the_log():
    """The repr names the node and no secret."""
    identity = Identity.generate(os.urandom)
    assert identity.node in repr(identity)
    assert identity.link_secret.hex() not in repr(identity)
    assert repr(identity.link_secret) not in repr(identity)
