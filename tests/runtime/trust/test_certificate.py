from __future__ import annotations

import itertools
import os

import msgspec
import pytest

from msrt.errors import BadSignature, NotEnrolled
from msrt.trust import Certificate, Identity, Purpose, check_certificate, check_proof, issue, prove

CLOUD = Identity(b"c" * 32, b"d" * 32)
NODE = Identity(b"n" * 32, b"m" * 32)


def certificate(**changes) -> Certificate:
    whole = Certificate(
        node=NODE.node, role="device", name="cam-1", identity=NODE.public, link_key=NODE.link_public,
        region="eu", labels={"site": "north"}, issued=5.0, serial=3,
    )  # fmt: skip
    return msgspec.structs.replace(whole, **changes)


def test_an_issued_certificate_is_read_back():
    """What the cloud signed is what its children read."""
    assert check_certificate(issue(CLOUD, certificate()), CLOUD.public) == certificate()


def test_another_clouds_certificate_is_refused():
    """A certificate is good in its own tree only."""
    with pytest.raises(BadSignature):
        check_certificate(issue(Identity.generate(os.urandom), certificate()), CLOUD.public)


def test_no_certificate_means_not_enrolled():
    """An empty one gets the error that tells how to join."""
    with pytest.raises(NotEnrolled, match="msrt invite"):
        check_certificate(b"", CLOUD.public)


def test_every_flipped_bit_is_refused():
    """No bit of a certificate can be changed."""
    blob = issue(CLOUD, certificate())
    for at, bit in itertools.product(range(len(blob)), range(8)):
        damaged = bytearray(blob)
        damaged[at] ^= 1 << bit
        with pytest.raises(BadSignature):
            check_certificate(bytes(damaged), CLOUD.public)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 200, 20_000])
def test_garbage_is_refused(size):
    """Bytes of any length give the typed error."""
    with pytest.raises(BadSignature):
        check_certificate(os.urandom(size), CLOUD.public)


@pytest.mark.parametrize(
    "changes", [{"node": CLOUD.node}, {"identity": b"short"}, {"link_key": b""}, {"role": "emperor"}]
)
def test_a_signed_contradiction_is_refused(changes):
    """Even the cloud cannot give a node's name to another's key, or a role that nobody knows."""
    with pytest.raises(BadSignature):
        check_certificate(issue(CLOUD, certificate(**changes)), CLOUD.public)


def test_signed_bytes_of_another_shape_are_refused():
    """A certificate of a later format is refused and not half read."""
    body = msgspec.msgpack.encode([1, 2, 3])
    with pytest.raises(BadSignature, match="upgrade"):
        check_certificate(CLOUD.sign(body, Purpose.CERTIFICATE) + body, CLOUD.public)


def test_unknown_fields_are_ignored():
    """A newer cloud may say more than we understand."""
    body = msgspec.msgpack.encode(msgspec.to_builtins(certificate(), builtin_types=(bytes,)) | {"colour": "red"})
    assert check_certificate(CLOUD.sign(body, Purpose.CERTIFICATE) + body, CLOUD.public) == certificate()


def test_a_proof_ties_the_link_key_to_the_identity():
    """The proof holds for its own invite and keys only."""
    proof = prove(NODE, "invite-1")
    check_proof("invite-1", NODE.public, NODE.link_public, proof)
    for invite, identity, link_key in (
        ("invite-2", NODE.public, NODE.link_public),
        ("invite-1", CLOUD.public, NODE.link_public),
        ("invite-1", NODE.public, CLOUD.link_public),
        ("invite-1", NODE.public, b""),
        ("invite-1", b"", NODE.link_public),
    ):
        with pytest.raises(BadSignature):
            check_proof(invite, identity, link_key, proof)
