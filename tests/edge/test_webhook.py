"""Events posted to a real HTTP server on loopback, in real time."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json

import pytest

from msrt import errors
from msrt.settings import EdgeConfig
from msrt.world.field import field_world
from msrt_edge import webhook as room
from msrt_edge.events import Events
from msrt_edge.webhook import Webhook
from tests.edge.rig import event

SECRET = "a shared secret"


class Receiver:
    """Takes posts; `statuses` are its next answers (0: hangs up), then 200."""

    def __init__(self):
        self.statuses, self.bodies, self.headers, self.tries = [], [], [], 0
        self.port = 0
        self.hold = None

    async def open(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def close(self):
        self.server.close()
        await self.server.wait_closed()

    async def _serve(self, reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await reader.readexactly(int(headers["content-length"]))
            self.tries += 1
            if self.hold is not None:
                await self.hold.wait()
            status = self.statuses.pop(0) if self.statuses else 200
            if status == 200:
                self.bodies.append(body)
                self.headers.append(headers)
            if status:
                writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
                await writer.drain()
        writer.close()

    @property
    def taken(self):
        """Numbers of all events that it took."""
        return [seq for post in self.seqs for seq in post]

    @property
    def seqs(self):
        """Numbers of the events in each post that it took."""
        return [[one["seq"] for one in json.loads(body)["events"]] for body in self.bodies]


async def until(condition, seconds=20.0):
    """In real time."""
    end = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < end, "it never became true"
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def posting(path, receiver, **more):
    """The spool of an edge whose webhook runs."""
    world = field_world(path)
    config = EdgeConfig(webhook_url=f"http://127.0.0.1:{receiver.port}/hook", **more)
    events = Events(world, bound_bytes=config.event_bytes, max_age_s=0.0, webhook=True)
    hook = asyncio.ensure_future(Webhook(world, events, config).run())
    try:
        yield events
        assert not hook.done(), hook.exception()
    finally:
        hook.cancel()
        await asyncio.wait([hook])


async def _receiving(scenario):
    receiver = Receiver()
    await receiver.open()
    try:
        await scenario(receiver)
    finally:
        await receiver.close()


def run(scenario, monkeypatch, pause=0.01):
    """Run `scenario(receiver)` with a short pause between tries."""
    monkeypatch.setattr(room, "PAUSE_S", pause)
    asyncio.run(_receiving(scenario))


def test_events_are_posted_as_json_and_signed(tmp_path, monkeypatch):
    """All that an event says, and an HMAC of exactly these bytes."""

    async def scenario(receiver):
        async with posting(tmp_path, receiver, webhook_secret=SECRET) as events:
            await events.stored([event("d1", 1, label=7)])
            await until(lambda: receiver.bodies and len(events.hook) == 0)
        [body], [headers] = receiver.bodies, receiver.headers
        [posted] = json.loads(body)["events"]
        assert (posted["name"], posted["model"], posted["data"]) == ("d1", "net", {"label": 7})
        mac = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        assert headers["x-msrt-signature"] == f"sha256={mac}"
        assert headers["content-type"] == "application/json"

    run(scenario, monkeypatch)


def test_events_are_posted_in_order_and_a_batch_at_a_time(tmp_path, monkeypatch):
    """What comes while a post is under way rides in the next ones."""

    async def scenario(receiver):
        receiver.hold = asyncio.Event()
        async with posting(tmp_path, receiver, webhook_batch=4) as events:
            await events.stored([event("d1", 1)])
            await until(lambda: receiver.tries == 1)
            await events.stored([event("d1", n) for n in range(2, 11)])
            receiver.hold.set()
            await until(lambda: receiver.taken == list(range(1, 11)))
            assert [len(post) for post in receiver.seqs] == [1, 4, 4, 1]

    run(scenario, monkeypatch)


@pytest.mark.parametrize("status", [500, 404, 302, 0])
def test_a_post_that_was_not_taken_is_tried_again(status, tmp_path, monkeypatch):
    """The same events, whatever the receiver said; what came behind them waits."""

    async def scenario(receiver):
        receiver.statuses = [status] * 3
        async with posting(tmp_path, receiver) as events:
            await events.stored([event("d1", 1)])
            await until(lambda: receiver.tries >= 2)
            await events.stored([event("d1", 2)])
            await until(lambda: receiver.taken == [1, 2])
            assert receiver.tries >= 4

    run(scenario, monkeypatch)


def test_a_receiver_that_hangs_is_given_up_in_time(tmp_path, monkeypatch):
    """Each post has its deadline; afterwards it is tried again."""

    async def scenario(receiver):
        receiver.hold = asyncio.Event()
        async with posting(tmp_path, receiver, webhook_timeout_s=0.1) as events:
            await events.stored([event("d1", 1)])
            await until(lambda: receiver.tries >= 2)
            receiver.hold.set()
            await until(lambda: receiver.seqs and receiver.seqs[-1] == [1])

    run(scenario, monkeypatch)


def test_pauses_between_tries_grow_up_to_their_bound(tmp_path, monkeypatch):
    """A receiver that is down is not stormed; the first success begins anew."""
    pauses = []

    async def scenario(receiver):
        sleep = asyncio.sleep

        async def noted(seconds):
            pauses.append(seconds)
            await sleep(0)

        world = field_world(tmp_path)
        config = EdgeConfig(webhook_url=f"http://127.0.0.1:{receiver.port}/", webhook_retry_max_s=4.0)
        events = Events(world, bound_bytes=1 << 20, max_age_s=0.0, webhook=True)
        receiver.statuses = [503] * 6 + [200, 503]
        monkeypatch.setattr(room.asyncio, "sleep", noted)
        hook = asyncio.ensure_future(Webhook(world, events, config).run())
        await events.stored([event("d1", 1)])
        async with asyncio.timeout(20):
            while receiver.tries < 7:
                await sleep(0.005)
            await events.stored([event("d1", 2)])
            while len(receiver.seqs) < 2:
                await sleep(0.005)
        monkeypatch.setattr(room.asyncio, "sleep", sleep)
        hook.cancel()
        await asyncio.wait([hook])

    run(scenario, monkeypatch, pause=0.5)
    expected = [0.5, 1, 2, 4, 4, 4, 0.5]
    assert len(pauses) == len(expected)
    for pause, least in zip(pauses, expected, strict=True):
        assert least <= pause <= 2 * least, "a pause is its base and up to as much again by chance"


def test_what_was_not_posted_is_posted_after_a_restart(tmp_path, monkeypatch):
    """The queue is on disk; what the receiver took before is not sent again."""

    async def scenario(receiver):
        async with posting(tmp_path, receiver) as events:
            await events.stored([event("d1", 1)])
            await until(lambda: len(events.hook) == 0 and receiver.seqs == [[1]])
            await events.upward.flush()
            receiver.statuses = [500] * 10_000
            await events.stored([event("d1", 2), event("d1", 3)])
            await until(lambda: receiver.tries > 2)
        receiver.statuses = []
        async with posting(tmp_path, receiver):
            await until(lambda: receiver.seqs[1:] == [[2, 3]])

    run(scenario, monkeypatch)


def test_a_webhook_that_is_down_holds_nothing_else_up(tmp_path, monkeypatch):
    """Events are taken, and go up to the cloud; they wait for it on disk within the bound."""

    async def scenario(receiver):
        await receiver.close()
        async with posting(tmp_path, receiver, event_bytes=2000) as events:
            for seq in range(1, 41):
                await events.stored([event("d1", seq)])
            assert events.received == 40
            assert events.hook.size <= 2000
            await receiver.open()
            await until(lambda: receiver.seqs and receiver.seqs[-1][-1] == 40)
            assert events.hook_dropped == 40 - len(receiver.taken)

    run(scenario, monkeypatch)


@pytest.mark.parametrize("url", ["http://[::1", "http://host:port/", "http:///no-host"])
def test_an_url_that_is_none_is_refused_at_the_start(url, tmp_path):
    """Not by silence when the first event comes."""
    events = Events(field_world(tmp_path), bound_bytes=1 << 20, max_age_s=0.0, webhook=True)
    with pytest.raises(errors.InvalidConfig, match="webhook_url"):
        Webhook(field_world(tmp_path), events, EdgeConfig(webhook_url=url))
