"""A peer that says what it is told to, byte by byte, and a tree of real processes to say it to."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import subprocess
import time
from urllib.request import urlopen

import msgpack
import msgspec
import paho.mqtt.client as paho
import zmq
from paho.mqtt.enums import CallbackAPIVersion
from zmq.utils import z85

from msrt.joining import IDENTITY, load_member
from msrt.protocol import wire
from msrt.protocol.messages import Call, Hello, Parent, Return, Welcome
from msrt.trust.identity import Identity, Purpose
from msrt.trust.invite import Invite, _Body
from tests.bench.tree import MSRT

__all__ = ["House", "Wire", "bad", "boots", "fails", "member", "resigned", "run", "throw"]

boots = itertools.count(1)


class House:
    """A cloud, an edge, a device over ZeroMQ and one over MQTT, a model on both, and a client that has logged in."""

    def __init__(self, tree):
        self.tree, self.path, self.restarted = tree, tree.path, ()
        edge = tree.edge("e1", "north")
        self.http = {"edge": edge.field("http"), "cloud": tree.procs["cloud"].field("http")}
        tree.device("d1", "north")
        tree.device("d2", "north", "--link", "mqtt")
        tree.push()
        self.answered_by_both()
        run("login", tree.invite("client"), "--state", self.path / "client")
        _, self.client, self.membership = member(self.path / "client")
        self.before = self.durable()

    def proc(self, tier):
        return self.tree.procs["e1" if tier == "edge" else "cloud"]

    def url(self, tier):
        """Where it listens with ZeroMQ."""
        return re.search(r"tcp://\S+", self.proc(tier).log.read_text())[0]

    def identity(self, tier):
        return Identity.load(self.path / ("e1" if tier == "edge" else "cloud") / IDENTITY)

    def answered_by_both(self):
        self.tree.serving(self.http["edge"], devices=2)

    def refused(self, tier):
        """The counter of refused packets."""
        text = urlopen(f"{self.http[tier]}/metrics").read().decode()
        return float(re.search(r"^msrt_refused_total (\S+)$", text, re.MULTILINE)[1])

    def parent(self, tier, **changes):
        right = Parent(self.identity(tier).node, self.identity(tier).link_public, zmq=self.url(tier), region="north")
        return msgspec.structs.replace(right, **changes)

    def durable(self):
        """What was decided and must outlast everything: the models and the nodes."""
        models = json.loads(self.tree.cli("model", "list", "--json"))
        nodes = json.loads(self.tree.cli("node", "list", "--json"))
        return (
            [(m["model"], m["versions"], m["serving"]) for m in models],
            {(n["name"], n["node"], n["role"]) for n in nodes},
        )


class Wire:
    """A peer on a bare ZeroMQ socket: it says what it is told to, frame by frame."""

    def __init__(self, house, tier, keys=None, server_key=None):
        keys = keys or house.client
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.curve_secretkey = keys.link_secret
        self.socket.curve_publickey = z85.encode(keys.link_public)
        self.socket.curve_serverkey = server_key or house.identity(tier).link_public
        self.monitor = self.socket.get_monitor_socket(zmq.Event.DISCONNECTED)
        self.socket.reconnect_ivl = -1
        self.socket.connect(house.url(tier))
        self.house, self.epoch = house, 0

    def say(self, *frames):
        self.socket.send_multipart(frames)

    def tell(self, message, **header):
        self.say(*wire.encode(message, **header))

    def hear(self, kind=None, seconds=5):
        """The next packet, or the next one of a kind."""
        end = time.monotonic() + seconds
        while self.socket.poll(max(0, (end - time.monotonic()) * 1000)):
            packet = wire.decode(self.socket.recv_multipart(), wire.ZMQ_LIMIT)
            if kind is None or isinstance(packet.message, kind):
                return packet.message
        raise TimeoutError(f"no {kind.__name__ if kind else 'word'} within {seconds} s")

    def hello(self, boot=None, attempt=1):
        """Greet as the client; the welcome."""
        membership = self.house.membership
        self.tell(Hello(self.house.client.node, boot or next(boots), membership.certificate, attempt))
        welcome = self.hear(Welcome)
        self.epoch = welcome.epoch
        return welcome

    def ask(self, ident=1):
        """A right question on the session: the answer."""
        self.tell(Call(ident, "edges"), seq=ident, epoch=self.epoch)
        return self.hear(Return)

    def hung_up(self, seconds=5):
        return bool(self.monitor.poll(seconds * 1000))

    def close(self):
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(0)


def run(*argv):
    done = subprocess.run([MSRT, *map(str, argv)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fails(*argv):
    """The one line on stderr of a command that must fail."""
    done = subprocess.run([MSRT, *map(str, argv)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0, done.stdout
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def member(folder):
    """World, identity and membership of a state directory."""
    return asyncio.run(load_member(folder))


def header(body, version=wire.PROTOCOL_VERSION, delivery=2, seq=1, epoch=0):
    """Frame 0 without the encoder's care."""
    return msgpack.packb([version, delivery, seq, epoch, 0, 0, body])


def nest(depth):
    return {} if depth == 0 else {"n": nest(depth - 1)}


def bad(epoch):
    """Name to (frames, code): what is refused wherever it comes."""
    call = {"t": "call", "id": 1, "method": "edges"}
    return {
        "garbage": ([b"\xff" * 50], "malformed_frame"),
        "an empty frame": ([b""], "malformed_frame"),
        "text": ([b"GET / HTTP/1.1\r\n\r\n"], "malformed_frame"),
        "a length that lies": ([b"\xdd\xff\xff\xff\xff"], "malformed_frame"),
        "too many frames": ([header(call, epoch=epoch)] + [b"x"] * 300, "malformed_frame"),
        "a large header": ([bytes(wire.HEADER_LIMIT + 1)], "frame_too_large"),
        "deep nesting": ([header({**call, "params": nest(40)}, epoch=epoch)], "malformed_frame"),
        "a tower": ([b"\x91" * 100_000], "malformed_frame"),
        "a bomb of maps": ([msgpack.packb([1, 2, 1, epoch, 0, 0, [{}] * 40_000])], "malformed_frame"),
        "an unknown type": ([header({"t": "surprise"}, epoch=epoch)], "unknown_message"),
        "an unknown version": ([header(call, version=99, epoch=epoch)], "version_mismatch"),
        "version 0": ([header(call, version=0, epoch=epoch)], "version_mismatch"),
        "another class": ([header(call, delivery=1, epoch=epoch)], "malformed_frame"),
        "wrong fields": ([header({**call, "id": "one"}, epoch=epoch)], "malformed_frame"),
    }


def throw(url, user, password, topic, payload):
    """Publish once, as that user: the broker ends the user's other connection, and soon ours. Did it take this?"""
    thrown = []
    host, port = url.removeprefix("mqtt://").split(":")
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=user)
    client.username_pw_set(user, password)
    client.on_connect = lambda *_: client.publish(topic, payload, qos=1)
    client.on_publish = lambda *_: thrown.append(payload)
    client.connect(host, int(port))
    while not thrown and client.loop(0.1) is paho.MQTT_ERR_SUCCESS:
        pass
    client.disconnect()
    return thrown


def resigned(invite, signer, **changes):
    """The invite with other fields, signed by somebody."""
    fields = {**{name: getattr(invite, name) for name in _Body.__struct_fields__}, **changes}
    body = _Body(**fields)
    signature = signer.sign(signer.public + msgspec.msgpack.encode(body), Purpose.INVITE)
    return Invite(**fields, cloud_identity=signer.public, signature=signature).encode()
