"""Many requests on one call."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

from msrt import errors
from msrt.serving.access import Access
from msrt.serving.grpc import messages as m
from msrt.trust.api_keys import KeyBook, make_key
from tests.runtime.serving.grpc.rig import RAW, Keeper, question, serve


async def say(call, *idents, **more):
    for ident in idents:
        await call.write(question(ident, **more).SerializeToString())


async def hear(call):
    data = await call.read()
    return None if data is grpc.aio.EOF else m.ModelStreamInferResponse.FromString(data)


def test_answers_come_as_they_are_ready():
    """Each with the id of its request, and the word that nothing more comes for it."""

    async def scenario(caller, master, _server):
        call = caller.stream()
        await say(call, "a", "b", "c")
        await master.until(lambda: len(master.held) == 3)
        for position, ident in ((1, "b"), (2, "c"), (0, "a")):
            await master.answer(position)
            said = await hear(call)
            assert (said.error_message, said.infer_response.id) == ("", ident)
            assert said.infer_response.raw_output_contents[0] == RAW
            assert said.infer_response.parameters["triton_final_response"].bool_param
        await call.done_writing()
        assert await hear(call) is None
        assert await call.code() is grpc.StatusCode.OK

    serve(scenario, master=Keeper(holds=True))


def test_a_request_that_fails_does_not_end_the_stream():
    """Its answer is the sentence, with its id."""

    async def scenario(caller, master, _server):
        call = caller.stream()
        await say(call, "bad", raw_input_contents=[b""])
        said = await hear(call)
        assert "takes 8 bytes, got 0" in said.error_message
        master.error = errors.Overloaded("the queue is full")
        await say(call, "full")
        said = await hear(call)
        assert (said.error_message, said.infer_response.id) == ("the queue is full", "full")
        assert said.infer_response.parameters["triton_final_response"].bool_param
        await call.write(b"\xff")
        assert "no ModelInferRequest" in (await hear(call)).error_message
        master.error = None
        await say(call, "good")
        assert (await hear(call)).infer_response.id == "good"
        call.cancel()

    serve(scenario)


def test_a_caller_who_has_said_all_is_still_answered():
    """The call ends after the last answer."""

    async def scenario(caller, master, _server):
        call = caller.stream()
        await say(call, "a", "b")
        await call.done_writing()
        await master.until(lambda: len(master.held) == 2)
        await master.answer(1)
        await master.answer(0)
        assert [(await hear(call)).infer_response.id for _ in "ba"] == ["b", "a"]
        assert await hear(call) is None

    serve(scenario, master=Keeper(holds=True))


def test_a_caller_who_says_nothing_gets_nothing():
    """And no error."""

    async def scenario(caller, _master, _server):
        call = caller.stream()
        await call.done_writing()
        assert await hear(call) is None
        assert await call.code() is grpc.StatusCode.OK

    serve(scenario)


@pytest.mark.parametrize("how", ["cancelled", "left", "deadline"])
def test_an_abandoned_stream_is_cancelled(how):
    """All that is in flight on it is not computed any more."""

    async def scenario(caller, master, server):
        call = caller.stream(timeout=0.3 if how == "deadline" else None)
        await say(call, "a", "b")
        await master.until(lambda: len(master.held) == 2)
        if how == "cancelled":
            call.cancel()
        elif how == "left":
            await caller.channel.close()
        await master.until(lambda: all(future.cancelled() for _, future, _ in master.held))
        await master.until(lambda: server.streams == 0)

    serve(scenario, master=Keeper(holds=True))


def test_a_caller_that_does_not_read_is_not_read_from():
    """Beyond the bound its requests wait with it, and all are answered in the end."""

    async def scenario(caller, master, _server):
        call = caller.stream()
        writing = asyncio.ensure_future(say(call, *map(str, range(20))))
        await master.until(lambda: len(master.held) == 4)
        await asyncio.sleep(0.05)
        assert len(master.held) == 4
        master.holds = False
        for position in range(4):
            await master.answer(position)
        heard = [(await hear(call)).infer_response.id for _ in range(20)]
        assert sorted(heard, key=int) == list(map(str, range(20)))
        await writing
        call.cancel()

    serve(scenario, master=Keeper(holds=True), max_in_stream=4)


def test_closing_answers_what_is_in_flight():
    """Then the stream ends, though its caller would say more."""

    async def scenario(caller, master, server):
        call = caller.stream()
        await say(call, "a")
        await master.until(lambda: master.held)
        closing = asyncio.ensure_future(server.close())
        await asyncio.sleep(0)
        await master.answer(0)
        assert (await hear(call)).infer_response.id == "a"
        assert await hear(call) is None
        assert await call.code() is grpc.StatusCode.OK
        async with asyncio.timeout(1):
            await closing

    serve(scenario, master=Keeper(holds=True))


def test_a_bug_ends_the_stream():
    """It is not swallowed."""

    async def scenario(caller, _master, _server):
        call = caller.stream()
        await say(call, "a")
        with pytest.raises(grpc.aio.AioRpcError):
            await hear(call)
        assert await call.code() is grpc.StatusCode.UNKNOWN

    serve(scenario, master=Keeper(ZeroDivisionError()))


def test_a_revoked_key_ends_its_stream():
    """Each message is looked at anew."""
    text, record = make_key("k", "client", lambda size: b"k" * size)
    books = [KeyBook([record])]

    async def scenario(caller, _master, _server):
        call = caller.stream(metadata=(("x-api-key", text),))
        await say(call, "a")
        assert (await hear(call)).infer_response.id == "a"
        books[0] = KeyBook([])
        await say(call, "b")
        with pytest.raises(grpc.aio.AioRpcError):
            await hear(call)
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED

    serve(scenario, access=Access(lambda: books[0], trusts_loopback=False))
