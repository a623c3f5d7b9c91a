"""Who comes in: on loopback, with a key, too fast, without the right; as the front answers it."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest

from msrt.errors import Forbidden, RateLimited, Unauthorized
from msrt.serving.access import LOCAL, Access, Caller
from msrt.serving.app import App, AppConfig
from msrt.serving.routes import NEEDS, Ask
from msrt.trust.api_keys import KeyBook, make_key
from msrt.trust.roles import Right
from tests.runtime.serving.caller import Master, call, event, infer

FAR = "192.0.2.7"


class Door:
    """An Access with a clock of the test's, and its keys."""

    def __init__(self, **options):
        self.now, self.book, self.texts = 0.0, KeyBook(), {}
        self.access = Access(lambda: self.book, now=lambda: self.now, wall=lambda: self.now, **options)

    def key(self, name, role="client", **more):
        text, key = make_key(name, role, random.randbytes, **more)
        self.book.put(key)
        self.texts[name] = text
        return text

    def revoke(self, name):
        self.book.put(msgspec.structs.replace(self.book.by_name[name], revoked=1.0))

    def check(self, key=None, peer=FAR, right=Right.ASK, **headers):
        given = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        if key is not None:
            given[b"x-api-key"] = key.encode()
        return self.access.check(given, peer, right)


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_a_caller_on_loopback_is_the_operator(peer):
    """Without a key, for every right."""
    assert all(Door().check(peer=peer, right=right) is LOCAL for right in Right)


@pytest.mark.parametrize("peer", [FAR, "", "::ffff:192.0.2.1", "1127.0.0.1", "fe80::1"])
def test_any_other_caller_needs_a_key(peer):
    """So does one whose address is not known: it may have hung up on purpose."""
    with pytest.raises(Unauthorized, match="asks for an API key"):
        Door().check(peer=peer)


@pytest.mark.parametrize("header", ["x_forwarded_for", "forwarded", "origin"])
def test_who_comes_through_a_proxy_or_a_web_page_is_not_on_loopback(header):
    """Its author is somewhere else."""
    with pytest.raises(Unauthorized):
        Door().check(peer="127.0.0.1", **{header: "http://evil.example"})


def test_behind_a_proxy_loopback_is_not_trusted():
    """http_plain: the proxy's callers all come from there."""
    door = Door(trusts_loopback=False)
    with pytest.raises(Unauthorized):
        door.check(peer="127.0.0.1")
    assert door.check(door.key("app"), peer="127.0.0.1") == Caller("client", "app")


def test_a_key_that_is_sent_counts_on_loopback_too():
    """A wrong one does not become the operator, a client's stays a client's."""
    door = Door()
    with pytest.raises(Unauthorized, match="not known"):
        door.check("nonsense", peer="127.0.0.1")
    with pytest.raises(Forbidden):
        door.check(door.key("app"), peer="127.0.0.1", right=Right.MANAGE)


def test_a_key_comes_in_either_header():
    """X-API-Key, or Authorization with Bearer in any case; what is no bearer is no key."""
    door = Door()
    text = door.key("app")
    for authorization in (f"Bearer {text}", f"bearer  {text} "):
        assert door.check(authorization=authorization).key == "app"
    for authorization in (f"Basic {text}", text, "Bearer", ""):
        with pytest.raises(Unauthorized):
            door.check(authorization=authorization)
        with pytest.raises(Unauthorized):
            door.check(authorization=authorization, peer="127.0.0.1")


@pytest.mark.parametrize("right", list(Right))
def test_rights_are_those_of_the_role(right):
    """The refusal names the key, its role and what it wanted."""
    door = Door()
    client, operator = door.key("app"), door.key("ops", "operator")
    assert door.check(operator, right=right).key == "ops"
    if right in (Right.ASK, Right.LOOK):
        assert door.check(client, right=right).role == "client"
        return
    with pytest.raises(Forbidden, match=f"'app' of role client may not {right}"):
        door.check(client, right=right)


def test_revocation_holds_from_the_next_request_on():
    """Nobody has to tell the front: it reads what the journal says."""
    door = Door()
    text = door.key("app")
    door.check(text)
    door.revoke("app")
    with pytest.raises(Unauthorized, match="revoked"):
        door.check(text)


def test_the_rate_is_the_keys_own():
    """One key's haste costs no other; whoever waits as long as he is told gets in."""
    door = Door()
    slow, other, free = door.key("slow", rate=2.0), door.key("other", rate=2.0), door.key("free")
    door.check(slow)
    door.check(slow)
    with pytest.raises(RateLimited, match="2 times a second") as refused:
        door.check(slow)
    door.check(other)
    for _ in range(1000):
        door.check(free)
    door.now += refused.value.retry_after
    door.check(slow)


def test_a_forbidden_question_counts_too():
    """Else a key without the right could ask for ever."""
    door = Door()
    text = door.key("app", rate=1.0)
    with pytest.raises(Forbidden):
        door.check(text, right=Right.MANAGE)
    with pytest.raises(RateLimited):
        door.check(text, right=Right.MANAGE)


def test_grpc_callers_are_the_same():
    """Its spelling of addresses, and its metadata, in bytes or text."""
    door = Door()
    text = door.key("app")
    for peer in ("ipv4:127.0.0.1:5", "ipv6:[::1]:5", "ipv6:%5B::1%5D:5"):
        assert door.access.check_metadata((), peer, Right.MANAGE) is LOCAL
    for peer in ("ipv4:192.0.2.1:5", "ipv6:[2001:db8::1]:5", "unix:", "", "ipv4:", "localhost:5"):
        with pytest.raises(Unauthorized):
            door.access.check_metadata((), peer, Right.ASK)
        for metadata in ([("authorization", f"Bearer {text}")], [("x-api-key", text), ("x-bin", b"\xff")]):
            assert door.access.check_metadata(metadata, peer, Right.ASK).key == "app"


# --- as HTTP says it


def test_a_refusal_over_http_says_what_is_missing():
    """401 with the scheme, 403, and 429 with the seconds to wait; each a sentence."""
    door = Door()
    door.key("app", rate=0.25)
    answer = call("/v2", access=door.access, peer=FAR)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "API key" in answer.json["error"]
    key = {"x-api-key": door.texts["app"]}
    assert call("/metrics", access=door.access, peer=FAR, headers=key).status == 403
    late = call("/v2", access=door.access, peer=FAR, headers=key)
    assert (late.status, late.headers["retry-after"]) == (429, "4")


def test_a_client_infers_and_looks_and_no_more():
    """Health is everybody's; events and metrics are the operator's."""
    door = Door()
    key = {"authorization": f"Bearer {door.key('app')}"}
    assert infer([1, 2], access=door.access, peer=FAR, headers=key).status == 200
    assert infer([1, 2], access=door.access, peer=FAR).status == 401
    for path in ("/v2", "/v2/models/digits", "/v2/models/digits/ready", "/msrt/v1/edges"):
        assert call(path, access=door.access, peer=FAR, headers=key).status == 200, path
        assert call(path, access=door.access, peer=FAR).status == 401, path
    for path in ("/metrics", "/msrt/v1/events"):
        assert call(path, access=door.access, peer=FAR, headers=key).status == 403, path
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert call(path, access=door.access, peer=FAR).status == 200, path


def test_events_end_when_the_key_does():
    """Who follows them is asked again with each: revoked, he hears no more."""

    async def scenario():
        door, master = Door(), Master()
        text, sent = door.key("ops", "operator"), asyncio.Queue()
        app = App(master, AppConfig(alive_s=0.02), access=door.access)
        scope = {
            "type": "http", "method": "GET", "path": "/msrt/v1/events", "query_string": b"", "client": (FAR, 1),
            "headers": [(b"x-api-key", text.encode())],
        }  # fmt: skip
        following = asyncio.ensure_future(app(scope, asyncio.Event().wait, sent.put))
        master.queue.put_nowait(event(1))
        while b"event: event" not in (await sent.get()).get("body", b""):
            pass
        door.revoke("ops")
        master.queue.put_nowait(event(2))
        await following
        assert not [m for m in iter_now(sent) if b"event: event" in m.get("body", b"")]
        assert not master.followers

    asyncio.run(asyncio.wait_for(scenario(), 10))


def iter_now(queue):
    """What lies in a queue."""
    while not queue.empty():
        yield queue.get_nowait()


def test_every_path_has_its_right():
    """A new question cannot be forgotten in the table."""
    assert set(NEEDS) == set(Ask)
    assert {ask for ask, right in NEEDS.items() if right is None} == {Ask.LIVE, Ask.READY}
