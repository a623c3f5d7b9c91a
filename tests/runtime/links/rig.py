"""One set of knobs over every transport, so that one suite tests them: who listens, who dials, who is killed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections import deque

import uvloop
import zmq
from zmq.utils import z85

from msrt.links import mqtt
from msrt.links import zmq as zeromq
from msrt.links.broker import Broker
from msrt.links.link import PARENT, Credentials
from msrt.process import spawn_child, stop_child
from msrt.world.field import field_world
from msrt.world.simulation import Simulation

SOON = 5.0
MASTER = "m" * 26
NODES = {"a": "a" * 26, "b": "b" * 26, "stranger": "s" * 26}


def keys(seed):
    """A CURVE pair, raw: public, secret."""
    secret = random.Random(seed).randbytes(32)
    return z85.decode(zmq.curve_public(z85.encode(secret))), secret


async def until(condition, seconds=SOON):
    """Wait for a condition with a deadline."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


class Recorder:
    """A sink that remembers, and a link that it belongs to."""

    def __init__(self):
        self.link = None
        self.packets, self.gones, self.rooms = deque(), deque(), 0
        self.on_packet = None

    def received(self, route, principal, frames):
        if self.on_packet is not None:
            self.on_packet(route, principal, frames)
        else:
            self.packets.append((route, principal, frames))

    def gone(self, route, error):
        self.gones.append((route, error))

    def writable(self):
        self.rooms += 1

    async def packet(self, seconds=SOON):
        """The next packet: route, principal, frames as bytes."""
        await until(lambda: self.packets, seconds)
        route, principal, frames = self.packets.popleft()
        return route, principal, [bytes(frame) for frame in frames]

    async def lost(self, route=None, seconds=SOON):
        """The next word that (this) somebody is gone: its error."""
        await until(lambda: any(route in (None, who) for who, _ in self.gones), seconds)
        found = next(item for item in self.gones if route in (None, item[0]))
        self.gones.remove(found)
        return found[1]

    async def send(self, frames, route=PARENT):
        """Send as soon as there is room."""
        async with asyncio.timeout(SOON):
            while not self.link.send(route, frames):  # noqa: ASYNC110
                await asyncio.sleep(0.005)


class Rig:
    """A transport under test. `run` gives a scenario this rig inside a loop, and closes what it opened."""

    limit = 1 << 20
    killed_within_s = 1.0
    master_principal = keys(MASTER)[0]

    def __init__(self, path):
        self.path, self.links, self.children, self.sockets = path, [], [], []

    def run(self, scenario):
        uvloop.run(self._run(scenario))

    async def _run(self, scenario):
        try:
            await self.open()
            await scenario(self)
        finally:
            for socket in self.sockets:
                socket.close()
            for link in self.links:
                await link.close()
            for child in self.children:
                await stop_child(child)
            await self.close()

    async def open(self):
        """Before the first link."""

    async def close(self):
        """After the last."""

    async def listen(self, allow=None, url=""):
        return await self._start(self.listener(allow or (lambda who: who != self.principal("stranger")), url))

    async def dial(self, who="a", ready=True):
        sink = await self._start(self.dialer(who))
        if ready:
            await until(lambda: sink.rooms)
        return sink

    async def _start(self, link):
        sink = Recorder()
        sink.link = link
        self.links.append(link)
        await link.start(sink)
        return sink

    async def process(self, who):
        """A peer in a process of its own that says `alive` and echoes; returns its killer."""
        module, url, credentials = self.endpoint(who)
        facts = {name: value.hex() if isinstance(value, bytes) else value for name, value in vars(credentials).items()}
        child = await spawn_child([sys.executable, "-m", "tests.runtime.links.child", json.dumps([module, url, facts])])
        self.children.append(child)
        return child


class ZmqRig(Rig):
    """ROUTER and DEALER with CURVE over tcp on loopback."""

    url = "tcp://127.0.0.1:0"

    def principal(self, who):
        return keys(who)[0]

    def listener(self, allow, url=""):
        return zeromq.listen(url or self.url, Credentials(secret_key=keys(MASTER)[1]), allow)

    def endpoint(self, who):
        credentials = Credentials(secret_key=keys(who)[1], server_key=keys(MASTER)[0])
        return "zmq", self.links[0].address, credentials

    def dialer(self, who):
        _, url, credentials = self.endpoint(who)
        return zeromq.dial(url, credentials)


class IpcRig(ZmqRig):
    """The same over a Unix socket."""

    @property
    def url(self):
        return f"ipc://{self.path}/link.sock"


class MqttRig(Rig):
    """A broker of our own; `engine` says which."""

    limit = 256 << 10
    master_principal = MASTER.encode()
    engine = "mosquitto"
    scheme = "mqtt"

    async def open(self):
        self.world = field_world(self.path)
        self.broker = Broker(
            self.world, self.path / "broker", master=MASTER, listen=f"{self.scheme}://127.0.0.1:0", engine=self.engine
        )
        await self.broker.start()
        for who in ("a", "b"):
            await self.broker.set_user(NODES[who], f"password of {who}")

    async def close(self):
        await self.broker.close()

    def principal(self, who):
        return NODES[who].encode()

    def listener(self, allow, _url=""):
        return mqtt.listen(self.broker.local_address, self.broker.credentials(), allow)

    def endpoint(self, who):
        credentials = Credentials(
            username=NODES[who],
            password=f"password of {who}",
            master=MASTER,
            fingerprint=self.broker.fingerprint,
        )
        return "mqtt", self.broker.local_address, credentials

    def dialer(self, who):
        _, url, credentials = self.endpoint(who)
        return mqtt.dial(url, credentials)


class MosquittoTlsRig(MqttRig):
    scheme = "mqtts"


class AmqttRig(MqttRig):
    engine = "amqtt"


class AmqttTlsRig(AmqttRig):
    scheme = "mqtts"


class MemoryRig(Rig):
    """The simulated network."""

    def run(self, scenario):
        with Simulation(seed=int(os.environ.get("MSRT_SEED", "1"))) as self.simulation:
            self.simulation.run(self._run(scenario), until=600)

    def principal(self, who):
        return keys(who)[0]

    def listener(self, allow, _url=""):
        links = self.simulation.world("master").links
        return links.listen("mem://", Credentials(secret_key=keys(MASTER)[1]), allow)

    def dialer(self, who):
        links = self.simulation.world(who).links
        return links.dial("mem://master", Credentials(secret_key=keys(who)[1], server_key=keys(MASTER)[0]))

    async def process(self, who):
        sink = await self.dial(who)
        sink.link.send(PARENT, [b"alive"])
        simulation = self.simulation

        class Crash:
            def kill(self):
                simulation.crash(who)

        return Crash()


RIGS = {
    "zmq": ZmqRig,
    "ipc": IpcRig,
    "mosquitto": MqttRig,
    "mosquitto-tls": MosquittoTlsRig,
    "amqtt": AmqttRig,
    "amqtt-tls": AmqttTlsRig,
    "memory": MemoryRig,
}
