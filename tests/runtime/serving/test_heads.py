"""A head that a connection has heard before is known by its bytes: what that saves may change no answer."""

from __future__ import annotations

import asyncio
import itertools
import json
import re

import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from msrt.serving.app import App, AppConfig
from msrt.serving.connection import Connection
from msrt.serving.http import HttpServer
from tests.runtime.serving.caller import Master

MORE = ("", "x-a: b\r\n", "msrt-deadline-ms: 1500\r\n")
PATHS = ("/v2/models/digits/infer", "/v2/models/digits/versions/3/infer", "/v2/models/others/infer")


def question(number, path=PATHS[0], more=""):
    tensor = {"name": "x", "shape": [1], "datatype": "INT32", "data": [number]}
    body = json.dumps({"inputs": [tensor]}).encode()
    return f"POST {path} HTTP/1.1\r\nhost: x\r\n{more}content-length: {len(body)}\r\n\r\n".encode() + body


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self):
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.out = b""
        self.closed = False

    def write(self, data):
        self.out += data

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


def fed(pieces, master=None, limit=None):
    """What a connection answers to these pieces; what is no bytes is done to it. Each comes once the one before is
    answered as far as it can be."""
    behind = master or Master()

    async def main():
        config = uvicorn.Config(
            App(behind, AppConfig(body_s=5)), http=Connection, ws="none", lifespan="off", log_config=None,
            access_log=False, proxy_headers=False, date_header=False, server_header=False, limit_concurrency=limit,
        )  # fmt: skip
        config.load()
        connection, wire = Connection(config=config, server_state=ServerState(), app_state={}), Wire()
        connection.connection_made(wire)
        for piece in pieces:
            if wire.closed:
                break
            if callable(piece):
                piece(connection)
            elif piece:
                connection.data_received(piece)
            for _ in range(6):
                await asyncio.sleep(0)
        connection.connection_lost(None)
        return wire.out

    return asyncio.run(main())


def data_of(out):
    """Status, and the number that was answered, of each answer."""
    found = []
    while out:
        head, _, rest = out.partition(b"\r\n\r\n")
        size = int(re.search(rb"content-length: (\d+)", head)[1])
        body, out = json.loads(rest[:size]), rest[size:]
        found.append((int(head[9:12]), body["outputs"][0]["data"][0] if "outputs" in body else None))
    return found


def test_the_same_head_again_and_again():
    """Each answer is that of its own body; a longer body has another head."""
    out = fed([question(number) for number in (1, 2, 3, 10, 11, 4)])
    assert data_of(out) == [(200, 1), (200, 2), (200, 3), (200, 10), (200, 11), (200, 4)]


def test_it_is_not_parsed_again(monkeypatch):
    """Which is what it is for."""
    begun = []
    before = Connection.on_message_begin
    monkeypatch.setattr(Connection, "on_message_begin", lambda self: (begun.append(1), before(self))[1])
    assert len(data_of(fed([question(number) for number in (1, 2, 3, 4)]))) == 4
    assert len(begun) == 1


def test_a_body_that_looks_like_the_last_question_is_a_body():
    """Bytes are a question by where they stand, not by what they are."""
    first = question(1)
    head = f"POST {PATHS[0]} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(first)}\r\n\r\n".encode()
    assert data_of(fed([first, head, first, question(2)])) == [(200, 1), (400, None), (200, 2)]


def test_a_head_that_only_begins_like_the_last_one_is_another():
    """Half a head came before: the whole one behind it is no question."""
    first = question(1)
    out = fed([first, b"POST /v2/models/digits/infer HTTP/1.1\r\nx-a: ", first])
    assert data_of(out) == [(200, 1), (200, 1)]
    assert re.findall(rb"HTTP/1.1 (\d+)", fed([first, b"POST /v2", first])) == [b"200", b"400"]


def test_a_full_house_refuses_it_too():
    """503 beyond the bound of connections, as for a head that is new."""
    more = fed([question(1), lambda connection: connection.connections.add(object()), question(2)], limit=2)
    assert re.findall(rb"HTTP/1.1 (\d+)", more) == [b"200", b"503"]


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from(PATHS), st.sampled_from(MORE)), min_size=1, max_size=6),
    st.lists(st.integers(0, 900), max_size=8),
)
def test_however_the_bytes_are_cut_the_answers_are_the_same(questions, cuts):
    """In order, each for its own model and version, each once."""
    stream = b"".join(question(*one) for one in questions)
    at = sorted({cut for cut in cuts if cut < len(stream)} | {0, len(stream)})
    master = Master()
    pieces = [stream[start:end] for start, end in itertools.pairwise(at)]
    answers = data_of(fed([*pieces, *([b""] * 2 * len(questions))], master))
    assert answers == [(200, number) for number, _, _ in questions]
    assert [(asked.model, asked.version) for asked in master.asked] == [
        ("others" if "others" in path else "digits", 3 if "versions" in path else 0) for _, path, _ in questions
    ]
    assert [asked.timeout_s for asked in master.asked] == [
        1.5 if "deadline" in more else 10.0 for _, _, more in questions
    ]


def test_a_connection_that_rests_is_closed():
    """After `idle_s` without a question, counted from the last answer."""

    async def scenario():
        server = HttpServer(App(Master(), AppConfig()), "127.0.0.1", 0, idle_s=1.0)
        port = await server.start()
        loop = asyncio.get_running_loop()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(3):
                writer.write(question(1))
                await reader.readuntil(b"}]}")
                answered = loop.time()
                await asyncio.sleep(0.45)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            assert loop.time() - answered > 0.9
            writer.close()
        finally:
            await server.close()

    asyncio.run(scenario())
