"""The MQTT source against real brokers: what a topic says becomes readings."""

from __future__ import annotations

import asyncio
import shutil

import numpy as np
import pytest

from msrt import errors
from msrt.links.broker import Broker
from msrt.links.mqtt_client import BrokerClient, Events
from msrt.settings import SourceConfig
from msrt.world.field import field_world
from msrt_device.sources import mqtt as room
from msrt_device.sources.source import open_source

MASTER, USER, PASSWORD = "m" * 26, "d" * 26, "sensor-password"
ENGINES = ["mosquitto", "amqtt"]
DOWN = f"msrt/{MASTER}/down/{USER}"


class Sensor:
    """A publisher: the broker's master, for it may write where a user reads."""

    def __init__(self, world, broker):
        self.up = asyncio.Event()
        events = Events(
            up=self.up.set, down=lambda _error: self.up.clear(), message=lambda _t, _p: None, writable=lambda: None
        )
        self.client = BrokerClient(
            broker.local_address, broker.credentials(), subscriptions=[f"msrt/{MASTER}/up/+"], will=None,
            events=events, random_bytes=world.random.randbytes,
        )  # fmt: skip
        self.client.open()

    async def say(self, payload):
        """One payload, as soon as the broker takes it."""
        await self.up.wait()
        assert self.client.publish(DOWN, payload)


@pytest.mark.processes
@pytest.mark.parametrize("engine", ENGINES)
def test_each_payload_is_a_reading(engine, tmp_path):
    """In order, as JSON or as plain numbers; what is no reading is left out and ends nothing."""
    if engine == "mosquitto" and shutil.which("mosquitto") is None:
        pytest.skip("mosquitto is not installed")

    async def main():
        world = field_world(tmp_path)
        broker = Broker(world, tmp_path / "broker", master=MASTER, listen="mqtt://127.0.0.1:0", engine=engine)
        await broker.start()
        try:
            await broker.set_user(USER, PASSWORD)
            sensor = Sensor(world, broker)
            host = broker.address.removeprefix("mqtt://")
            config = SourceConfig(
                name="belt", model="m", kind="mqtt", topic=DOWN, url=f"mqtt://{USER}:{PASSWORD}@{host}"
            )
            source = open_source(world, config)
            first = asyncio.ensure_future(anext(source))
            async with asyncio.timeout(20):
                while not first.done():  # until its subscription stands, a topic says things to nobody
                    await sensor.say(b"[1.0, 2.0]")
                    await asyncio.wait([first], timeout=0.1)
                assert np.array_equal(first.result(), np.array([1, 2], np.float32))
                await sensor.say(b"not numbers")
                for payload, expected in ((b"3, 4", [3.0, 4.0]), (b"[[5], [6]]", [[5.0], [6.0]])):
                    heard = asyncio.ensure_future(anext(source))
                    while not heard.done() or heard.result().tolist() != expected:
                        if heard.done():  # what was said before, and once more
                            heard = asyncio.ensure_future(anext(source))
                        await sensor.say(payload)  # QoS 0: a broker may lose one
                        await asyncio.wait([heard], timeout=0.1)
            await source.aclose()
            await sensor.client.close()
        finally:
            await broker.close()

    asyncio.run(main())


@pytest.mark.processes
def test_a_broker_that_does_not_know_us_is_an_error(tmp_path):
    """The watcher shows it and tries again; nothing hangs in silence."""
    if shutil.which("mosquitto") is None:
        pytest.skip("mosquitto is not installed")

    async def main():
        world = field_world(tmp_path)
        broker = Broker(world, tmp_path / "broker", master=MASTER, listen="mqtt://127.0.0.1:0", engine="mosquitto")
        await broker.start()
        try:
            host = broker.address.removeprefix("mqtt://")
            config = SourceConfig(name="belt", model="m", kind="mqtt", topic="a", url=f"mqtt://nobody:pw@{host}")
            async with asyncio.timeout(20):
                with pytest.raises(errors.NotEnrolled):
                    await anext(open_source(world, config))
        finally:
            await broker.close()

    asyncio.run(main())


@pytest.mark.parametrize("given", [{}, {"topic": "a"}, {"url": "mqtt://h:1"}, {"topic": "a", "url": "http://h:1"}])
def test_a_source_without_topic_or_broker_is_refused(given, tmp_path):
    """At once, with what is missing."""

    async def main():
        config = SourceConfig(name="belt", model="m", kind="mqtt", **given)
        with pytest.raises(errors.InvalidConfig, match="belt"):
            await anext(open_source(field_world(tmp_path), config))

    asyncio.run(main())


def test_a_slow_model_keeps_the_newest(monkeypatch):
    """A topic has no memory: beyond the bound the oldest payloads go, and are counted."""
    monkeypatch.setattr(room, "WAITING", 3)

    async def main():
        topic = room._Topic(SourceConfig(name="belt", model="m", kind="mqtt"))
        for number in range(5):
            topic.message("a", b"%d" % number)
        assert list(topic.came) == [b"2", b"3", b"4"]
        assert topic.dropped == 2

    asyncio.run(main())
