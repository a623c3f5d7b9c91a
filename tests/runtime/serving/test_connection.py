"""The short way of a question to a model: answers stay right and in order, whatever the caller does."""

from __future__ import annotations

import asyncio
import json

import pytest

from msrt.errors import Overloaded
from msrt.serving.connection import MOST
from tests.runtime.serving.caller import Master
from tests.runtime.serving.test_http import INFER, ask, serve

PATH = "POST /v2/models/digits/infer HTTP/1.1"


class Held(Master):
    """Answers when told to, and knows who was given up."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[asyncio.Future] = []
        self.came = asyncio.Event()

    def infer(self, request):
        future = asyncio.get_running_loop().create_future()
        self.open.append(future)
        self.asked.append(request)
        self.came.set()
        return future

    async def let(self, index):
        request = self.asked[index]
        self.open[index].set_result(await Master().infer(request))


def numbers(*data):
    tensor = {"name": "x", "shape": [len(data)], "datatype": "FP32", "data": data}
    return json.dumps({"inputs": [tensor]}).encode()


def raw(body, head=PATH, *more):
    lines = [head, "Host: x", f"Content-Length: {len(body)}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def data_of(reader):
    top = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    body = await reader.readexactly(int(top.split("content-length: ")[1].split("\r\n")[0]))
    return top, json.loads(body)


def test_pipelined_questions_are_answered_in_their_order():
    """Questions and looks sent at once, on one connection: each answer is its own, none overtakes."""

    async def scenario(port, _master):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        look = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
        writer.write(raw(numbers(1)) + raw(numbers(2)) + look + raw(numbers(3)) + look)
        found = [(await data_of(reader))[1] for _ in range(5)]
        assert [one["outputs"][0]["data"] for one in found if "outputs" in one] == [[1], [2], [3]]
        assert [one.get("live") for one in found] == [None, None, True, None, True]
        writer.close()

    serve(scenario)


def test_what_comes_behind_an_open_question_waits():
    """A second question is not even asked before the first is answered."""
    master = Held()

    async def scenario(port, _master):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw(numbers(1)) + raw(numbers(2)))
        await master.came.wait()
        assert len(master.open) == 1
        master.came.clear()
        await master.let(0)
        assert (await data_of(reader))[1]["outputs"][0]["data"] == [1]
        await master.came.wait()
        await master.let(1)
        assert (await data_of(reader))[1]["outputs"][0]["data"] == [2]
        writer.close()

    serve(scenario, master=master)


def test_a_caller_that_leaves_gives_its_question_up():
    """The future is cancelled, so that nothing is computed for nobody."""
    master = Held()

    async def scenario(port, _master):
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw(numbers(1)))
        await master.came.wait()
        given_up = asyncio.Event()
        master.open[0].add_done_callback(lambda _done: given_up.set())
        writer.close()
        await given_up.wait()
        assert master.open[0].cancelled()

    serve(scenario, master=master)


def test_a_body_in_pieces_is_put_together():
    """Byte by byte, the answer is the same."""

    async def scenario(port, _master):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in raw(numbers(4, 5)):
            writer.write(bytes([byte]))
            await writer.drain()
        assert (await data_of(reader))[1]["outputs"][0]["data"] == [4, 5]
        writer.close()

    serve(scenario)


def test_a_body_that_does_not_come_is_given_up():
    """400 after the time that a body may take, and the connection is closed."""

    async def scenario(port, master):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw(INFER)[:-5])
        top, body = await data_of(reader)
        assert " 400 " in top
        assert "did not arrive" in body["error"]
        assert await reader.read() == b""
        assert not master.asked
        writer.close()

    serve(scenario, body_s=0.05)


@pytest.mark.parametrize("head", ["POST /v2/models/digits/infer HTTP/1.0", PATH])
def test_who_asks_to_close_is_closed(head):
    """HTTP/1.0, and `connection: close`."""

    async def scenario(port, _master):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw(numbers(1), head, "Connection: close"))
        top, _body = await data_of(reader)
        assert "connection: close" in top
        assert await reader.read() == b""
        writer.close()

    serve(scenario)


def test_errors_keep_the_connection():
    """Refused by the backend (503, with Retry-After), garbage (400): the next question is heard."""

    async def scenario(port, master):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        top, _ = await ask(reader, writer, PATH, INFER)
        assert " 503 " in top
        assert "retry-after: 1" in top
        master.error = None
        assert " 400 " in (await ask(reader, writer, PATH, b"{"))[0]
        assert " 200 " in (await ask(reader, writer, PATH, INFER))[0]
        writer.close()

    serve(scenario, master=Master(Overloaded("full")))


def test_a_fault_of_ours_is_a_500_and_the_process_lives():
    """An exception that nobody expected ends that connection only."""

    async def scenario(port, master):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw(INFER))
        assert b" 500 " in await reader.readuntil(b"\r\n")
        writer.close()
        master.error = None
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert " 200 " in (await ask(reader, writer, PATH, INFER))[0]
        writer.close()

    serve(scenario, master=Master(ZeroDivisionError("odd")))


def test_large_and_chunked_and_expected_bodies_take_the_long_way():
    """They are answered all the same."""

    async def scenario(port, _master):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        count = MOST // 2
        top, body = await ask(reader, writer, PATH, numbers(*[7] * count))
        assert len(json.loads(body)["outputs"][0]["data"]) == count
        chunk = numbers(1)
        writer.write(f"{PATH}\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        writer.write(b"%x\r\n" % len(chunk) + chunk + b"\r\n0\r\n\r\n")
        assert (await data_of(reader))[1]["outputs"][0]["data"] == [1]
        writer.write(
            raw(b"", PATH, "Expect: 100-continue").replace(b"Content-Length: 0", b"Content-Length: %d" % len(chunk))
        )
        assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")
        writer.write(chunk)
        top, _body = await data_of(reader)
        assert " 200 " in top
        writer.close()

    serve(scenario)
