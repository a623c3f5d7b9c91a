"""Bad input on the wire to live ports: what the peer is told, who counts it, and that all goes on. One tree for all."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time

import msgspec
import pytest
import zmq

from msrt.protocol import wire
from msrt.protocol.messages import (
    Call,
    Enrol,
    Fence,
    Heartbeat,
    Hello,
    Load,
    Refuse,
)
from msrt.trust.certificate import prove
from msrt.trust.identity import Identity
from msrt.trust.invite import Invite
from tests.bench.tree import Tree, until
from tests.processes.hostile import House, Wire, bad, boots, fails, member, resigned, run, throw

TIERS = ("edge", "cloud")
TOO_LARGE = wire.ZMQ_LIMIT + 5_000


@pytest.fixture(scope="module")
def house():
    with Tree() as tree:
        yield House(tree)


@pytest.fixture(autouse=True)
def whole(house):
    """Whatever a test does: the same processes live, nobody raised, and both devices answer."""
    pids = {name: proc.pid for name, proc in house.tree.procs.items()}
    yield
    for name, proc in house.tree.procs.items():
        assert proc.popen.poll() is None, name
        assert proc.pid == pids[name] or name in house.restarted
        assert "Traceback" not in proc.log.read_text(), name
    house.answered_by_both()


@pytest.fixture
def dial(house):
    """Open `Wire`s, closed after the test."""
    opened = []

    def dialled(*args, **kwargs):
        opened.append(Wire(house, *args, **kwargs))
        return opened[-1]

    yield dialled
    for one in opened:
        one.close()


@pytest.fixture
def logged(house):
    """Wait until a tier's log, from now on, has a line with all of these words."""
    seen = {tier: len(house.proc(tier).log.read_bytes()) for tier in TIERS}

    def waits(tier, *words):
        def line():
            text = house.proc(tier).log.read_bytes()[seen[tier] :].decode()
            return any(all(word in line for word in words) for line in text.splitlines())

        until(f"{tier} logs {words}", line, 10)

    return waits


# --- ZeroMQ: bytes that are no message ------------------------------------------------------------------------


@pytest.mark.parametrize("tier", TIERS)
def test_a_stranger_is_told_what_was_wrong(house, dial, logged, tier):
    """Each kind of bad packet, before any hello: a refusal with its code, counted, and named in the log."""
    peer, before = dial(tier, Identity.generate(os.urandom)), house.refused(tier)
    for name, (frames, code) in bad(0).items():
        peer.say(*frames)
        answer = peer.hear(Refuse)
        assert (answer.code, bool(answer.text)) == (code, True), name
        logged(tier, "hop.refused", code)
    assert house.refused(tier) == before + len(bad(0))


@pytest.mark.parametrize("tier", TIERS)
def test_a_session_outlives_its_bad_packets(house, dial, logged, tier):
    """From an enrolled client in its session each is dropped, counted and logged as its; then it is answered."""
    peer, before = dial(tier), house.refused(tier)
    peer.hello()
    for frames, code in bad(peer.epoch).values():
        peer.say(*frames)
        logged(tier, "hop.refused", code, house.client.node)
    assert peer.ask().id == 1
    assert house.refused(tier) == before + len(bad(0))


@pytest.mark.parametrize("tier", TIERS)
def test_a_frame_over_the_limit_ends_its_connection_only(house, dial, logged, tier):
    """It is hung up on before the frame is taken in; the log says whose connection it was; another one is served."""
    peer = dial(tier)
    peer.hello()
    peer.say(bytes(TOO_LARGE))
    assert peer.hung_up()
    logged(tier, "hop.link_lost", house.client.node)
    again = dial(tier)
    again.hello()
    assert again.ask().id == 1


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("greeted", [True, False])
def test_a_packet_over_the_limit_ends_its_connection_only(house, dial, logged, tier, greeted):
    """Frames that are too large together are counted, named with their size, and hung up on."""
    peer, before = dial(tier), house.refused(tier)
    if greeted:
        peer.hello()
    peer.say(*[bytes(300_000)] * 4)
    assert peer.hung_up()
    logged(tier, "hop.refused_by_link", "frame_too_large", "1200000", house.client.node if greeted else "")
    assert house.refused(tier) == before + 1


@pytest.mark.parametrize("tier", TIERS)
def test_bytes_that_are_no_zeromq_are_hung_up_on(house, tier):
    """A web browser at the wrong port, and noise."""
    host, port = house.url(tier).removeprefix("tcp://").split(":")
    for noise in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(range(255, -1, -1))):
        with socket.create_connection((host, int(port)), 5) as raw:
            raw.settimeout(10)
            raw.sendall(noise * 40)
            with contextlib.suppress(ConnectionError):
                while raw.recv(4096):
                    pass


@pytest.mark.parametrize("tier", TIERS)
def test_zeromq_without_curve_fails_its_handshake(house, logged, tier):
    """Nothing that it sends is heard, and the log says that a handshake was refused."""
    before = house.refused(tier)
    with zmq.Context.instance().socket(zmq.DEALER) as plain:
        plain.linger = 0
        plain.connect(house.url(tier))
        plain.send(b"hello")
        logged(tier, "hop.refused_by_link")
    assert house.refused(tier) == before


# --- ZeroMQ: messages out of order ----------------------------------------------------------------------------


@pytest.mark.parametrize("tier", TIERS)
def test_nothing_is_heard_before_hello(house, dial, logged, tier):
    """A call, a heartbeat, numbers without a session: each is answered with a fence, named in the log, and not done."""
    peer = dial(tier)
    for message in (Call(1, "edges"), Heartbeat(), Load({"x": 1.0})):
        peer.tell(message, seq=1, epoch=1)
        assert peer.hear() == Fence(0)
        logged(tier, "hop.fenced", type(message).__name__)
    peer.hello()
    assert peer.ask().id == 1


@pytest.mark.parametrize("tier", TIERS)
def test_a_second_hello_is_the_same_session_or_a_new_one(house, dial, tier):
    """The same attempt gets the same welcome, a later one a new epoch that fences the old, an older one no word."""
    peer, boot = dial(tier), next(boots)
    first = peer.hello(boot, attempt=2)
    assert peer.hello(boot, attempt=2).epoch == first.epoch
    second = peer.hello(boot, attempt=3)
    assert second.epoch > first.epoch
    peer.tell(Hello(house.client.node, boot, house.membership.certificate, attempt=1))
    peer.tell(Call(1, "edges"), seq=1, epoch=first.epoch)
    assert peer.hear() == Fence(second.epoch)
    assert peer.ask().id == 1


@pytest.mark.parametrize("tier", TIERS)
def test_a_connection_has_one_process(house, dial, tier):
    """A hello of another process on it ends the session of the one before: many take no room of others."""
    peer = dial(tier)
    epochs = [peer.hello().epoch for _ in range(3)]
    assert epochs == sorted(set(epochs))
    for epoch in epochs[:2]:
        peer.tell(Call(1, "edges"), seq=1, epoch=epoch)
        assert peer.hear() == Fence(epochs[2])
    assert peer.ask().id == 1


@pytest.mark.parametrize("tier", TIERS)
def test_an_acknowledgement_of_what_was_never_sent_is_refused(house, dial, logged, tier):
    """It is out of order, whatever rode with it is not done, and the session goes on."""
    peer, before = dial(tier), house.refused(tier)
    peer.hello()
    for lie in ({"ack_session": 1}, {"ack_durable": 7}, {"ack_session": 2**63 - 1}):
        peer.tell(Call(1, "edges"), seq=1, epoch=peer.epoch, **lie)
    logged(tier, "hop.refused", "out_of_order", house.client.node)
    assert peer.ask().id == 1
    assert house.refused(tier) == before + 3


@pytest.mark.parametrize("tier", TIERS)
def test_a_parents_words_from_a_child_are_refused(house, dial, logged, tier):
    """A child that welcomes its parent, or says what its role may not: each has its code, and the session goes on."""
    peer, before = dial(tier), house.refused(tier)
    welcome = peer.hello()
    peer.tell(welcome, epoch=peer.epoch)
    logged(tier, "hop.refused", "out_of_order")
    peer.tell(Load({"x": 1.0}), seq=1, epoch=peer.epoch)
    logged(tier, "hop.refused", "forbidden", "may not send Load")
    assert peer.ask().id == 1
    assert house.refused(tier) == before + 2


# --- MQTT -----------------------------------------------------------------------------------------------------


def test_garbage_on_a_devices_own_topic(house, logged):
    """With the device's own password: each is counted and named, and the device takes its place back."""
    _, identity, membership = member(house.path / "d2")
    url = house.proc("edge").field("mqtt")
    topic = f"msrt/{house.identity('edge').node}/up/{identity.node}"
    for payload in (b"", b"\xff" * 100, b"\x02\xff\xff\xff\xff", b"\x01\x04\x00\x00\x00junk"):
        before = house.refused("edge")
        until("it is said", lambda payload=payload: throw(url, identity.node, membership.mqtt_password, topic, payload))
        until("it is counted", lambda before=before: house.refused("edge") > before)
    logged("edge", "hop.refused_by_link", "malformed_frame")  # not packed as a packet is
    logged("edge", "hop.refused ", "malformed_frame")  # packed, but no message


# --- keys and invites -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", TIERS)
def test_a_key_of_nobody_does_not_get_in(house, dial, logged, tier):
    """Without a certificate, and with another node's: not enrolled, with a hint; what is asked anyway is fenced."""
    stranger = Identity.generate(os.urandom)
    peer = dial(tier, stranger)
    for node, certificate, why in (
        (stranger.node, b"", "no certificate"),
        (house.client.node, house.membership.certificate, "another key"),
    ):
        peer.tell(Hello(node, next(boots), certificate))
        answer = peer.hear(Refuse)
        assert answer.code == "not_enrolled"
        assert why in answer.text
        assert "msrt invite" in answer.hint or why == "another key"
        logged(tier, "hop.refused", "not_enrolled", why)
    peer.tell(Call(1, "edges"), seq=1)
    assert peer.hear() == Fence(0)


def test_a_wrong_server_key_is_told_apart(house, logged):
    """An invite whose edge holds another key: the joiner says so and keeps nothing, the edge logs the handshake."""
    invite = Invite.parse(house.tree.invite("client"), time.time())
    parents = (house.parent("edge", link_key=Identity.generate(os.urandom).link_public),)
    text = fails("login", resigned(invite, house.identity("cloud"), parents=parents), "--state", house.path / "wrong")
    assert "does not hold the key we expect" in text
    logged("edge", "hop.refused_by_link", "wrong_server_key")


def test_a_forged_secret_spends_nothing(house, logged):
    """A real invite with another secret is refused as forged; the real one still works, in the same directory."""
    text = house.tree.invite("client")
    invite, state = Invite.parse(text, time.time()), house.path / "late"
    forged = resigned(invite, house.identity("cloud"), secret=bytes(16), parents=(house.parent("edge"),))
    assert f"the secret of invite {invite.id} is wrong" in fails("login", forged, "--state", state)
    logged("edge", "hop.enrolment_refused", "invite_forged", invite.id)
    assert "logged in as client" in run("login", text, "--state", state)


def test_an_unknown_invite_is_refused(house, logged):
    """One that this tree never issued, even under the cloud's own signature."""
    parents = (house.parent("edge"),)
    made = Invite.make(house.identity("cloud"), os.urandom, role="client", parents=parents, expires=time.time() + 60)
    assert "never issued" in fails("login", made.encode(), "--state", house.path / "unknown")
    logged("edge", "hop.enrolment_refused", "invite_unknown")


@pytest.mark.parametrize("tier", TIERS)
def test_enrolments_that_lie_are_refused_by_their_code(house, dial, logged, tier):
    """An invite that is not there, a proof of another key, keys of a wrong size: each is told which, and logged."""
    one, other = Identity.generate(os.urandom), Identity.generate(os.urandom)
    peer = dial(tier, one)
    right = Enrol("nothere", bytes(16), one.public, one.link_public, prove(one, "nothere"), "x")
    for request, code in (
        (right, "invite_unknown"),
        (msgspec.structs.replace(right, proof=prove(other, "nothere")), "bad_signature"),
        (msgspec.structs.replace(right, link_key=b"short"), "bad_signature"),
        (msgspec.structs.replace(right, identity=b""), "bad_signature"),
        (msgspec.structs.replace(right, name="no such/name"), "invalid_address"),
    ):
        peer.tell(request)
        assert peer.hear(Refuse).code == code
        logged(tier, "hop.enrolment_refused", code)


# --- config ---------------------------------------------------------------------------------------------------


def test_a_typo_in_a_config_is_named_and_nothing_is_written(house, tmp_path):
    """The line, the key and the nearest known one; the invite is not spent, no state directory is made."""
    file, state = tmp_path / "edge.toml", tmp_path / "e2"
    file.write_text("lease_z = 2.0\n")
    invite = house.tree.invite("edge", "--region", "south")
    said = fails("edge", "join", invite, "--config", file, "--state", state)
    assert f"{file}:1" in said
    assert "'lease_z'" in said
    assert "'lease_s'" in said
    assert list(tmp_path.iterdir()) == [file]


# --- at the end -----------------------------------------------------------------------------------------------


def test_nothing_durable_was_lost(house):
    """After all of that, edge and cloud are killed: they come back with the models and nodes of the beginning."""
    house.restarted = ("cloud", "e1")
    for name in house.restarted:
        house.tree.procs[name].signal(signal.SIGKILL)
        house.tree.procs[name].popen.wait()
    house.tree.start("cloud", "cloud", "start")
    house.tree.start("e1", "edge", "join")
    house.answered_by_both()
    models, nodes = house.durable()
    assert models == house.before[0]
    assert nodes >= house.before[1]
    assert [role for _, _, role in nodes - house.before[1]] == ["client"], "the one with the right secret"
