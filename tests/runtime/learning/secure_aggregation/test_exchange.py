"""Both sides of an exchange together: exact sums whoever drops out, and what neither side will do."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.errors import BadUpdate, Conflict
from msrt.learning.secure_aggregation import client as client_module
from msrt.learning.secure_aggregation import events as e
from msrt.learning.secure_aggregation.client import Leave, Say
from msrt.learning.secure_aggregation.client import Stage as Mine
from msrt.learning.secure_aggregation.fixed import add, parts
from msrt.learning.secure_aggregation.server import Stage
from msrt.protocol.messages import SecureOut, SecureRoster, SecureUnmask
from tests.runtime.learning.secure_aggregation.exchange import SIZE, Exchange, me, update


class Bare(Exchange):
    """Remembers what each device would have sent without masks."""

    def upload(self, updates=None, samples=None):
        self.bare = {}
        real = client_module.apply

        def spy(payload, masks, bits):
            self.bare[self.now_masking] = bytes(payload)
            real(payload, masks, bits)

        client_module.apply = spy
        try:
            for node, one in self.clients.items():
                if one.stage is Mine.READY and self.alive(node, "upload"):
                    self.now_masking = node
                    number = self.numbers[node]
                    self.payloads[node] = one.mask(update(number), number + 1, {"loss": 1.0 + number})
        finally:
            client_module.apply = real
        return self

    def wanted(self):
        """The sum of exactly those whose payload came."""
        total = memoryview(bytearray(self.fixed().bytes))
        for node in self.payloads:
            add(self.bare[node], total, self.plan.bits)
        return bytes(total)


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("count", [3, 4, 9, 30])
def test_the_sum_is_exact(count, bits):
    """Nobody drops out: every bit of the unmasked sum is that of the bare payloads' sum."""
    one = Bare(count, bits=bits).run()
    assert bytes(one.total()) == one.wanted()
    assert one.server.stage is Stage.DONE


@settings(max_examples=40)
@given(st.data())
def test_whoever_drops_out_whenever(data):
    """Any devices, at any stages: either the sum of exactly those whose update came, or a reason and no sum."""
    count = data.draw(st.integers(3, 14))
    stages = st.sampled_from(["announce", "share", "upload", "reveal", "never"])
    fate = data.draw(st.lists(stages, min_size=count, max_size=count))
    neighbours = data.draw(st.sampled_from([0, 4, 6]))
    lost = {stage: {n for n, when in enumerate(fate) if when == stage} for stage in set(fate) - {"never"}}
    one = Bare(count, lost, seed=count, neighbours=neighbours, dropouts=0.3).run()
    if one.work is None:
        assert one.reason
        return
    assert len(one.payloads) >= 3
    assert bytes(one.total()) == one.wanted()


def test_above_the_threshold_every_time():
    """Of ten devices in pairs with all others, five share, four are lost later: five and one more are needed."""
    for stage in ("upload", "reveal"):
        one = Bare(10, {stage: range(4)}, neighbours=9).run()
        assert bytes(one.total()) == one.wanted(), stage
        below = Bare(10, {stage: range(5)}, neighbours=9).run()
        assert below.server.stage is Stage.FAILED, stage
        with pytest.raises(BadUpdate, match="mask"):
            below.total()


def test_lost_in_both_late_stages():
    """Two never send, two send and are killed: the sum holds the latter two."""
    one = Bare(12, {"upload": [0, 1], "reveal": [2, 3]}, neighbours=11).run()
    assert bytes(one.total()) == one.wanted()
    assert {one.numbers[node] for node in one.payloads} == set(range(2, 12))


def test_the_mean_is_that_of_the_updates():
    """Within the resolution; samples and metrics come out of the sum too, and only there."""
    one = Exchange(8).run()
    mean, total = one.fixed().decode(one.total())
    weights = np.arange(1, 9)
    wanted = np.average([update(n) for n in range(8)], axis=0, weights=weights)
    assert np.allclose(mean, wanted, atol=1e-5)
    assert total.samples == weights.sum()
    assert total.clipped == 0
    assert total.metrics["accuracy"] == pytest.approx(0.5)
    assert total.metrics["loss"] == pytest.approx(float(np.average(np.arange(8) + 1.0, weights=weights)))


def test_a_sparse_ring_is_exact_too():
    """Forty devices with twelve neighbours each and four drop-outs."""
    one = Bare(40, {"upload": [3, 17, 18, 30]}, neighbours=12).run()
    assert len(one.server._near[0]) == 12
    assert bytes(one.total()) == one.wanted()


def test_a_device_masks_once():
    """A second vector under the same masks would show the difference of both."""
    one = Exchange(4).keys().upload()
    with pytest.raises(Conflict):
        next(iter(one.clients.values())).mask(update(9), 1, {})


def test_a_device_answers_one_question():
    """The same one again has the same answer; one that calls another neighbour lost has none."""
    one = Exchange(7, neighbours=6).keys().upload()
    client = next(iter(one.clients.values()))
    others = [member.index for member in client._members.values()]
    asked = SecureUnmask("job", client.session, tuple(others), ())
    (first,) = client.handle(asked)
    assert client.handle(asked) == [first]
    assert client.handle(SecureUnmask("job", client.session, tuple(others[1:]), (others[0],))) == []


@pytest.mark.parametrize(
    "ask",
    [
        lambda near: (near, near[:1]),
        lambda near: (near[1:], ()),
        lambda near: ((*near, 99), ()),
        lambda near: (near[:3], near[3:]),
    ],
    ids=["both kinds", "not all", "a stranger", "below the threshold"],
)
def test_a_lying_edge_gets_no_shares(ask):
    """The device leaves the exchange instead, and says why."""
    one = Exchange(7, neighbours=6).keys().upload()
    client = next(iter(one.clients.values()))
    near = tuple(sorted(client._members))
    survivors, dropped = ask(near)
    actions = client.handle(SecureUnmask("job", client.session, tuple(survivors), tuple(dropped)))
    assert [type(action) for action in actions] == [Say, Leave]
    assert isinstance(actions[0].message, SecureOut)
    assert client.stage is Mine.OUT
    assert not client._held


def test_no_shares_before_the_own_update_is_masked():
    """Else an edge could take everybody for dropped out."""
    one = Exchange(4).keys()
    client = next(iter(one.clients.values()))
    (said, _) = client.handle(SecureUnmask("job", client.session, tuple(sorted(client._members)), ()))
    assert isinstance(said.message, SecureOut)


def _forged(roster: SecureRoster, number: int, **change) -> SecureRoster:
    members = list(roster.neighbours)
    members[number] = msgspec.structs.replace(members[number], **change)
    return msgspec.structs.replace(roster, neighbours=tuple(members))


@pytest.mark.parametrize("field", ["mask", "cipher", "commitment"])
def test_an_edge_cannot_put_its_own_keys_between(field):
    """A key that the device did not sign ends the exchange at its neighbour."""
    one = Exchange(4)
    for client in one.clients.values():
        one.server.keys[client._me.node] = client.keys
    one.server.waiting.clear()
    roster = next(a.message for a in one.server._to_ring(0.0) if a.node == next(iter(one.clients)))
    client = next(iter(one.clients.values()))
    said, left = client.handle(_forged(roster, 0, **{field: bytes(32)}))
    assert "signature" in left.reason
    assert isinstance(said.message, SecureOut)


def test_keys_are_for_one_exchange():
    """Signed for another session, or by a node that is no device, they are refused, and their owner is told."""
    one = Exchange(4)
    node = next(iter(one.clients))
    other = Exchange(4, session="job/2.0/edge/1/0")
    one.hear(node, other.clients[node].keys)
    assert "signature" in one.excluded[node]
    assert one.clients[node].stage is Mine.OUT
    operator = me(1, role="operator")
    stranger = client_module.SecureClient(operator, "job", one.plan, 1)
    one.hear(operator.node, stranger.keys)
    assert "operator" in one.excluded[operator.node]


def test_a_key_that_nobody_can_agree_with_drives_nobody_out():
    """Its device signed it, and is refused; the others have their sum."""
    one = Bare(6, {"announce": [0]}, neighbours=5)
    node, client = next(iter(one.clients.items()))
    keys = client.keys
    claim = keys.cipher + bytes(32) + keys.commitment + keys.session.encode()
    one.hear(node, msgspec.structs.replace(keys, mask=bytes(32), signature=client._me.sign(claim)))
    assert "X25519" in one.excluded[node]
    one.run()
    assert bytes(one.total()) == one.wanted()
    assert node not in one.payloads


def test_two_devices_are_not_hidden_in_each_other():
    """A sum of two shows each the other's: such an exchange ends before anybody sends anything."""
    one = Exchange(5, {"announce": [0, 1, 2]}).run()
    assert one.reason == "2 devices of its region announced keys: a sum must hide 3 at least"
    assert not one.payloads


def test_a_device_that_lost_its_keys_is_out_but_its_sum_is_not():
    """It comes back with new keys after it shared the old ones: it is told, and counts as dropped out."""
    one = Bare(8, {"upload": [0]}, neighbours=7).keys()
    node = next(iter(one.clients))
    again = client_module.SecureClient(me(0, seed=7), "job", one.plan, 100)
    one.hear(node, again.keys)
    assert one.excluded[node] == "it lost its keys of this exchange"
    one.upload().reveal()
    assert bytes(one.total()) == one.wanted()


def test_what_was_not_heard_is_said_again():
    """A device whose link was away hears the roster, its shares and the question again when it is back."""
    one = Bare(6, {"share": [0], "reveal": [0]})
    node, client = next(iter(one.clients.items()))
    for other in one.clients:
        one.hear(other, one.clients[other].keys)
    assert one.server.stage is Stage.SHARE
    one.lost = {"reveal": {0, 1, 2}}
    one.tell(e.Joined(node))
    assert client.stage is Mine.READY
    one.upload()
    one.tell(e.Sealed(frozenset(one.payloads), 99.0))
    assert one.server.stage is Stage.REVEAL
    one.lost = {}
    one.tell(e.Joined(node))
    assert client.stage is Mine.REVEALED
    assert one.server.stage is Stage.DONE
    assert bytes(one.total()) == one.wanted()


def test_a_wrong_share_is_found():
    """What does not give the announced key or seed stops the sum instead of spoiling it."""
    one = Bare(6, {"upload": [0]}).run()
    broken = one.work.survivors[0]
    holder = next(iter(broken.shares))
    shares = {**broken.shares, holder: bytes(33)}
    one.work = msgspec.structs.replace(
        one.work, survivors=(msgspec.structs.replace(broken, shares=shares), *one.work.survivors[1:])
    )
    with pytest.raises(BadUpdate, match="share"):
        one.total()


def test_the_largest_updates_do_not_overflow():
    """Everybody at the end of the range with the most samples, in 16 bits: the sum is still exact."""
    one = Exchange(12, bits=16, clip=1.0).keys()
    flat = np.zeros(SIZE, np.float32)
    flat[0] = -1.0
    one.upload([flat] * 12, [100] * 12).reveal()
    mean, total = one.fixed().decode(one.total())
    assert mean[0] == pytest.approx(-1.0, abs=1e-3)
    assert parts(one.total(), 16)[1].view(np.int16)[0] == -12 * one.fixed().limit
    assert total.samples == 1200


def test_a_long_update_is_shortened_and_counted():
    """Beyond the norm that all keep to: its direction stays, the sum says that one was."""
    one = Exchange(3, clip=1.0).keys()
    flat = update(1) * 100
    one.upload([flat, update(1) * 0, update(2) * 0], [1, 1, 1]).reveal()
    mean, total = one.fixed().decode(one.total())
    assert total.clipped == 1
    assert math.isclose(np.linalg.norm(mean), 1 / 3, rel_tol=1e-3)
    assert np.dot(mean, flat) / np.linalg.norm(mean) / np.linalg.norm(flat) > 0.999


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_what_is_not_finite_is_refused_by_its_own_device(bad):
    """Nobody else could see it."""
    one = Exchange(3).keys()
    flat = update(1)
    flat[5] = bad
    client = next(iter(one.clients.values()))
    if bad == 1e30:
        assert client.mask(flat, 1, {})
    else:
        with pytest.raises(BadUpdate, match="NaN"):
            client.mask(flat, 1, {})
        assert not client.masked
