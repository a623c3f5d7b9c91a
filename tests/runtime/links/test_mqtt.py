"""What only MQTT can get wrong, with both brokers."""

from __future__ import annotations

import asyncio

import pytest

from msrt import errors
from msrt.links import mqtt
from msrt.links.broker_probe import admitted
from msrt.links.link import PARENT, Credentials
from msrt.links.mqtt_client import BrokerClient, Events
from tests.runtime.links.rig import MASTER, NODES, RIGS, until

A, B = NODES["a"], NODES["b"]


async def greeted(rig):
    master, node = await rig.listen(), await rig.dial()
    await node.send([b"hello"])
    route, _, _ = await master.packet()
    return master, node, route


class Client:
    """A client of the broker that says what it likes, as node b unless told otherwise."""

    def __init__(self, rig, *, subscriptions=(), will=None, user=B, password="password of b"):
        self.heard, self.downs = [], []
        self.client = BrokerClient(
            rig.broker.local_address,
            Credentials(username=user, password=password),
            subscriptions=subscriptions or (f"msrt/{MASTER}/down/{user}",),
            will=lambda: will or (f"msrt/{MASTER}/gone/{user}", b"-"),
            events=Events(lambda: None, self.downs.append, lambda *item: self.heard.append(item), lambda: None),
            random_bytes=bytes,
        )
        self.client.open()

    async def up(self):
        await until(lambda: self.client.up)
        return self

    async def die(self):
        """As if the process were killed: no goodbye."""
        self.client.up = False  # so that it says no goodbye
        await self.client.close()


def test_a_device_cannot_read_anothers_topics(broker_rig):
    """The broker denies the subscription, or delivers nothing for it."""

    async def scenario(rig):
        master, node, route = await greeted(rig)
        for topic in (f"msrt/{MASTER}/down/{A}", f"msrt/{MASTER}/up/{A}", f"msrt/{MASTER}/up/+", "#"):
            spy = Client(rig, subscriptions=(topic,))
            await until(lambda spy=spy: spy.client.up or spy.downs)
            assert not spy.downs or isinstance(spy.downs[0], errors.Forbidden)
            await master.send([b"secret"], route)
            await node.packet()
            await node.send([b"secret too"])
            await master.packet()
            await asyncio.sleep(0.05)
            assert not [payload for _, payload in spy.heard if b"secret" in payload]
            await spy.client.close()

    broker_rig.run(scenario)


def test_a_device_cannot_write_anothers_topics(broker_rig):
    """It cannot speak as another device, nor as the master, nor say that another is gone."""

    async def scenario(rig):
        master, node, route = await greeted(rig)
        forger = await Client(rig).up()
        for topic in (f"up/{A}", f"down/{A}", f"gone/{A}", f"gone/{MASTER}"):
            forger.client.publish(f"msrt/{MASTER}/{topic}", b"-")
        forger.client.publish(f"msrt/{MASTER}/up/{B}", b"\x01\x04\x00\x00\x00mine")
        assert (await master.packet())[1:] == (B.encode(), [b"mine"])
        await master.send([b"honest"], route)
        assert (await node.packet())[2] == [b"honest"]
        assert not master.packets
        assert not node.packets
        assert not master.gones
        assert not node.gones
        await forger.client.close()

    broker_rig.run(scenario)


def test_a_will_on_anothers_topic_says_nothing(broker_rig):
    """A device cannot let the broker say that another has gone."""

    async def scenario(rig):
        master, node, _ = await greeted(rig)
        forger = Client(rig, will=(f"msrt/{MASTER}/gone/{A}", b"-"))
        await until(lambda: forger.client.up or forger.downs)
        await forger.die()
        await node.send([b"still here"])
        assert (await master.packet())[2] == [b"still here"]
        await asyncio.sleep(0.1)
        assert not master.gones

    broker_rig.run(scenario)


def test_a_wrong_password_disturbs_nobody(broker_rig):
    """Refused with NotEnrolled; the real device under that name goes on undisturbed."""

    async def scenario(rig):
        master, node, route = await greeted(rig)
        liar = Client(rig, user=A, password="guessed")
        await until(lambda: liar.downs)
        assert isinstance(liar.downs[0], errors.NotEnrolled)
        await liar.client.close()
        await node.send([b"up"])
        await master.packet()
        await master.send([b"down"], route)
        await node.packet()
        assert not node.gones
        assert not master.gones

    broker_rig.run(scenario)


def test_a_device_cannot_take_anothers_connection_over(broker_rig):
    """MQTT ends the older of two connections with one client id; ours are bound to the user."""

    async def scenario(rig):
        master, node, route = await greeted(rig)
        thief = Client(rig)
        make = thief.client._make

        def with_another_id(socket):
            client = make(socket)
            client._client_id = A.encode()
            return client

        thief.client._make = with_another_id
        await until(lambda: thief.client.up or thief.downs)
        await master.send([b"down"], route)
        assert (await node.packet())[2] == [b"down"]
        assert not node.gones
        assert not master.gones
        await thief.client.close()

    broker_rig.run(scenario)


def test_the_will_of_an_old_connection_does_not_end_the_new_one(broker_rig):
    """The broker may notice a half-dead connection after the device is long back."""

    async def scenario(rig):
        master = await rig.listen()
        first = await Client(rig, user=A, password="password of a").up()
        gone = f"msrt/{MASTER}/gone/{A}"
        first.client.publish(gone, b"+first")
        first.client.publish(gone, b"+second")
        first.client.publish(f"msrt/{MASTER}/up/{A}", b"\x01\x02\x00\x00\x00hi")
        await master.packet()
        first.client.publish(gone, b"-first")
        first.client.publish(f"msrt/{MASTER}/up/{A}", b"\x01\x02\x00\x00\x00ho")
        await master.packet()
        assert not master.gones
        first.client.publish(gone, b"-second")
        assert await master.lost(A.encode()) is None
        await first.client.close()

    broker_rig.run(scenario)


def test_a_device_that_is_back_before_it_was_missed_is_gone_first(broker_rig):
    """A new connection under the same name ends the old route, so that the session knows."""

    async def scenario(rig):
        master, node, route = await greeted(rig)
        again = await rig.dial()
        assert await master.lost(route) is None
        await node.link.close()
        await until(lambda: again.link.send(PARENT, [b"again"]))
        assert (await master.packet())[2] == [b"again"]

    broker_rig.run(scenario)


def test_garbage_is_refused_with_a_typed_error(broker_rig):
    """MalformedFrame for that peer; the master and the others go on."""

    async def scenario(rig):
        master, node, _ = await greeted(rig)
        peer = await Client(rig).up()
        for payload in (b"", b"\x00", b"\x02\xff\xff\xff\xff", bytes(100)):
            peer.client.publish(f"msrt/{MASTER}/up/{B}", payload)
            assert isinstance(await master.lost(B.encode()), errors.MalformedFrame)
        await node.send([b"still"])
        assert (await master.packet())[2] == [b"still"]
        await peer.client.close()

    broker_rig.run(scenario)


def test_an_oversized_packet_is_refused(broker_rig):
    """The broker cuts it off, or the master refuses it; others go on."""

    async def scenario(rig):
        master, node, _ = await greeted(rig)
        peer = await Client(rig).up()
        peer.client.publish(f"msrt/{MASTER}/up/{B}", bytes(rig.limit + 20_000))
        await until(lambda: peer.downs or master.gones)
        assert not master.packets
        await node.send([b"still"])
        assert (await master.packet())[2] == [b"still"]
        await peer.client.close()

    broker_rig.run(scenario)


def test_a_master_that_leaves_the_broker_is_missed(broker_rig):
    """Its Will reaches every device, though their own connections stand; and they hear when it is back."""

    async def scenario(rig):
        master, node, _ = await greeted(rig)
        await master.link.close()
        assert isinstance(await node.lost(PARENT), errors.Disconnected)
        assert not node.link.send(PARENT, [b"x"])
        rooms = node.rooms
        await rig.listen()
        await until(lambda: node.rooms > rooms)
        assert node.link.send(PARENT, [b"x"])

    broker_rig.run(scenario)


def test_a_principal_that_is_not_allowed_is_not_heard(broker_rig):
    """`allow` is asked before the sink sees anything, though the broker took the user in."""

    async def scenario(rig):
        master = await rig.listen(lambda who: who != B.encode())
        peer = await rig.dial("b")
        node = await rig.dial()
        await peer.send([b"b"])
        await node.send([b"a"])
        assert (await master.packet())[1] == A.encode()
        assert not master.packets

    broker_rig.run(scenario)


def test_a_broker_that_is_not_there_fails_the_master(tmp_path):
    """BrokerFailed at the start, with the reason."""

    async def scenario():
        credentials = Credentials(username=MASTER, password="x", master=MASTER)
        with pytest.raises(errors.BrokerFailed, match="does not work"):
            await mqtt.listen("mqtt://127.0.0.1:9", credentials, lambda _who: True).start(Client)

    mqtt.START_S, before = 0.3, mqtt.START_S
    try:
        asyncio.run(scenario())
    finally:
        mqtt.START_S = before


@pytest.mark.parametrize("fingerprint", ["ab" * 32, ""])
def test_a_wrong_certificate_is_named(tmp_path, fingerprint):
    """WrongServerKey before any password is sent, with a pinned fingerprint and with the machine's own trust."""

    async def scenario(rig):
        credentials = Credentials(username=A, password="password of a", master=MASTER, fingerprint=fingerprint)
        node = await rig._start(mqtt.dial(rig.broker.local_address, credentials))
        assert isinstance(await node.lost(PARENT), errors.WrongServerKey)

    RIGS["mosquitto-tls"](tmp_path).run(scenario)


def test_a_pinned_certificate_is_not_given_up(tmp_path):
    """mqtt:// where a certificate is expected is a mistake, or an attack."""
    del tmp_path
    credentials = Credentials(username=A, master=MASTER, fingerprint="ab" * 32)

    async def scenario():
        link = mqtt.dial("mqtt://127.0.0.1:1", credentials)
        with pytest.raises(errors.InvalidAddress, match="mqtts://"):
            await link.start(Client)

    asyncio.run(scenario())


def test_a_removed_user_is_cut_off(broker_rig):
    """Its packets reach nobody any more, and it does not get in again."""

    async def scenario(rig):
        master, node, route = await greeted(rig)
        await rig.broker.remove_user(A)
        node.link.send(PARENT, [b"late"])
        await asyncio.sleep(0.2)
        assert not master.packets
        port = int(rig.broker.address.rsplit(":", 1)[1])
        assert not await admitted("127.0.0.1", port, A, "password of a", tls=False)
        del route

    broker_rig.run(scenario)
