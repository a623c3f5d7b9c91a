"""What an edge sees says nothing of a single device: not by its look, and not by all that it could compute from it."""

from __future__ import annotations

import numpy as np
import pytest

from msrt.learning.secure_aggregation import client as client_module
from msrt.learning.secure_aggregation.fixed import HEAD, parts
from msrt.learning.secure_aggregation.masks import apply as masked
from msrt.protocol.messages import SecureReveal, SecureShares
from tests.runtime.learning.secure_aggregation.exchange import Exchange, update

SIZE = 1 << 16


def test_a_masked_update_looks_like_noise():
    """Its bytes are uniform (chi square), its words uncorrelated with the update, with those of others and of sums."""
    one = Exchange(4, clip=100.0).keys()
    updates = [update(number, SIZE) for number in range(4)]
    one.upload(updates)
    payloads = [np.frombuffer(payload, np.uint8) for payload in one.payloads.values()]
    words = [payload[HEAD:].view(np.int32).astype(np.float64) for payload in payloads]
    counts = np.array([np.bincount(payload, minlength=256) for payload in payloads])
    expected = payloads[0].size / 256
    chi = ((counts - expected) ** 2 / expected).sum(axis=1)
    assert (abs(chi - 255) < 5 * np.sqrt(2 * 255)).all()  # its mean is 255, its standard deviation sqrt(510)
    others = [*updates, sum(updates)]
    for number, word in enumerate(words):
        for other in [*others, *words[:number]]:
            assert abs(np.corrcoef(word, other)[0, 1]) < 5 / np.sqrt(SIZE)


class World(Exchange):
    """Two survivors, `a` and `b`, have other updates by `delta`, of the same sum, and the mask that only they know is
    `pad`. All else is drawn from the same seeds.
    """

    def __init__(self, a, b, delta, pad, lost):
        super().__init__(9, lost, neighbours=8)
        self.delta, self.pad = delta, pad
        self.nodes = sorted(self.clients, key=self.numbers.get)
        self.a, self.b = self.nodes[a], self.nodes[b]

    def upload(self, updates=None, samples=None):
        real, pair = client_module.apply, self._pair()

        def spy(payload, masks, bits):
            sign = {self.a: 1, self.b: -1}.get(self.who, 0)
            if sign:
                minus = next(take for key, take in masks if key == pair)
                masks = [mask for mask in masks if mask[0] != pair]
                for part, delta, pad in zip(parts(payload, bits), self.delta, self.pad, strict=True):
                    np.add(part, delta if sign > 0 else -delta, out=part)
                    np.subtract(part, pad, out=part) if minus else np.add(part, pad, out=part)
            real(payload, masks, bits)

        client_module.apply = spy
        try:
            for node, one in self.clients.items():
                if self.alive(node, "upload"):
                    self.who = node
                    self.payloads[node] = one.mask(update(self.numbers[node]), 1 + self.numbers[node], {})
        finally:
            client_module.apply = real
        return self

    def _pair(self):
        """The key that both know."""
        keys = [{key for key, _ in self.clients[node]._masks} for node in (self.a, self.b)]
        (key,) = keys[0] & keys[1]
        return key


@pytest.mark.parametrize("lost", [{}, {"upload": [7], "reveal": [8]}], ids=["nobody lost", "two lost"])
def test_an_edge_sees_the_same_whichever_of_two_devices_holds_what(lost):
    """For every two updates and two others of the same sum there is a mask, known to these two devices only, by which
    each byte that the edge receives is the same. To the edge that mask is random: what it sees cannot tell them apart.
    """
    a, b = 1, 5
    rng = np.random.default_rng(3)
    pad = rng.integers(0, 1 << 63, 6, np.uint64), rng.integers(0, 1 << 32, 257, np.uint32)
    zero = np.zeros(6, np.uint64), np.zeros(257, np.uint32)
    delta = rng.integers(0, 1 << 20, 6).astype(np.uint64), rng.integers(0, 1 << 20, 257).astype(np.uint32)
    one = World(a, b, zero, pad, lost).run()
    low = one.server._index[one.a] < one.server._index[one.b]
    other = tuple(p - d if low else p + d for p, d in zip(pad, delta, strict=True))
    two = World(a, b, delta, other, lost).run()
    assert one.heard == two.heard
    assert {n: bytes(p) for n, p in one.payloads.items()} == {n: bytes(p) for n, p in two.payloads.items()}
    assert bytes(one.total()) == bytes(two.total())


def test_no_key_of_a_survivor_is_told():
    """The mask of two survivors stays unknown: no share of a survivor's key comes in the clear, nor of a drop-out's own
    mask; and what comes sealed is sealed.
    """
    one = Exchange(9, {"upload": [2, 3]}, neighbours=8).run()
    alive = {one.server._index[node] for node in one.payloads}
    told = [message for _, message in one.heard if isinstance(message, SecureReveal)]
    assert told
    for reveal in told:
        assert {share.index for share in reveal.seeds} <= alive
        assert not {share.index for share in reveal.keys} & alive
    work = one.work
    assert {dropped.index for dropped in work.dropped} == set(range(9)) - alive
    sealed = b"".join(share.data for _, m in one.heard if isinstance(m, SecureShares) for share in m.shares)
    revealed = {share.data for reveal in told for share in (*reveal.seeds, *reveal.keys)}
    assert not any(share in sealed for share in revealed)
    for client in one.clients.values():
        secrets = client._secrets
        heard = repr(one.heard).encode()
        assert not any(repr(secret)[2:-1].encode() in heard for secret in (secrets.mask, secrets.cipher, secrets.seed))


def test_masks_are_other_ones_in_each_exchange():
    """The same update twice: nothing of the first payload is in the second."""
    first = Exchange(4, seed=1).keys().upload()
    again = Exchange(4, seed=2, session="job/1.0/edge/2/0").keys().upload()
    for node in first.payloads:
        a, b = (np.frombuffer(one.payloads[node], np.uint8) for one in (first, again))
        assert (a == b).mean() < 0.05


def test_the_mask_of_a_key_is_the_known_stream():
    """AES-128 of 0, 1, 2 ..., as counter mode is defined; and taking it away leaves nothing."""
    payload = memoryview(bytearray(HEAD + 4 * 40))
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    masked(payload, [(key, False)], 32)
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415 - the oracle

    stream = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    blocks = b"".join(stream.update(counter.to_bytes(16, "big")) for counter in range(-(-len(payload) // 16)))
    assert bytes(payload) == blocks[: len(payload)]
    masked(payload, [(key, True)], 32)
    assert bytes(payload) == bytes(len(payload))
