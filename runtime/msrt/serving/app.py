"""The HTTP front: one ASGI callable, no framework. Paths by `routes`, bodies by `oip`, work by the Backend."""

from __future__ import annotations

import asyncio
import functools
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import msgspec

from msrt.buffers import Buffer
from msrt.errors import FrameTooLarge, MsrtError, NotFound
from msrt.serving.access import Access
from msrt.serving.backend import Backend, InferAnswer, InferRequest, Models
from msrt.serving.compression import AT_ONCE, deflate, encoding_for, inflate
from msrt.serving.oip import (
    EXTENSIONS,
    BadRequest,
    decode_infer,
    encode_answer,
    encode_error,
    encode_metadata,
    encode_mixed,
    status_of,
)
from msrt.serving.oip_binary import LENGTH_HEADER, How
from msrt.serving.openapi import document
from msrt.serving.parameters import classified, labels_of
from msrt.serving.repository import Repository
from msrt.serving.routes import METHODS, NEEDS, Ask, Route, find_route
from msrt.serving.sse import stream_events
from msrt.serving.traced import TRACEPARENT
from msrt.telemetry.context import joined
from msrt.trust.roles import Right

__all__ = ["GONE", "TASK", "App", "AppConfig", "Headers", "failed"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Offload = Callable[[Callable[[], bytes]], Awaitable[bytes]]
"""Does long work beside the loop."""

TASK = "msrt.task"
"""In the scope of a question to a model: who works at it. A server that loses the caller's connection cancels it, so
that nothing is computed for nobody, and leaves GONE there."""
GONE = "msrt.gone"
_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
_BINARY = (b"content-type", b"application/octet-stream")
_STREAM = (b"content-type", b"text/event-stream")
_NO_CACHE = (b"cache-control", b"no-store")
_MAX_ROUTES = 1024
_MAX_ASK = 64 << 10
"""Bytes of a question about the repository."""


class AppConfig(msgspec.Struct, frozen=True):
    """Bounds and paces of the front."""

    max_body: int = 8 << 20
    """Bytes. JSON is read in one go, at about 2 ms per MiB of numbers, while the loop waits."""
    timeout_s: float = 10.0
    """Of a request that names none."""
    body_s: float = 30.0
    """How long a body may take to arrive."""
    max_streams: int = 64
    """Callers that follow events at a time."""
    alive_s: float = 15.0


class _Gone(MsrtError):
    """The caller left before its request was whole."""


async def _inline(work: Callable[[], bytes]) -> bytes:
    return work()


class App:
    """ASGI. `in_flight`, `streams` and `responses` (by status) are what there is to see."""

    def __init__(
        self, backend: Backend, config: AppConfig | None = None, *, version: str = "", access: Access | None = None,
        models: Models | None = None, offload: Offload = _inline,
    ) -> None:  # fmt: skip
        self.config = config or AppConfig()
        self._access = access or Access()
        self.in_flight = 0
        self.streams = 0
        self.responses: Counter[int] = Counter()
        self._backend = backend
        self._offload = offload
        self._repository = Repository(models)
        self._server = msgspec.json.encode({"name": "msrt", "version": version, "extensions": EXTENSIONS})
        self._openapi = functools.cache(partial(document, version))
        self._routes: dict[str, Route] = {}
        self._asking: dict[bytes, Route | None] = {}
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """End the streams, so that connections can close."""
        self._stop.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request. Whatever is the caller's, a peer's or the machine's fault is answered as {"error": ...}."""
        if scope["type"] != "http":
            return
        self.in_flight += 1
        try:
            headers: dict[bytes, bytes] = dict(scope["headers"])
            path = scope["path"]
            route = self._routes.get(path) or self._find(path)
            if scope["method"] not in METHODS[route.ask]:
                allowed = ", ".join(METHODS[route.ask])
                text = f"{scope['method']} is not allowed here, {allowed} is"
                await self._send(send, 405, encode_error(text), [(b"allow", allowed.encode())])
                return
            right = NEEDS[route.ask]
            if right is not None:
                client = scope.get("client")
                self._access.check(headers, client[0] if client else "", right)
            if route.ask is Ask.INFER:
                scope[TASK] = asyncio.current_task()
                await self._infer(route, headers, receive, send)
            else:
                await self._look(route, scope, receive, send)
        except _Gone:
            return
        except asyncio.CancelledError:
            if GONE not in scope:
                raise
        except MsrtError as error:
            status, said, body = failed(error)
            await self._say(send, status, said, body)
        finally:
            self.in_flight -= 1

    def _find(self, path: str) -> Route:
        route = find_route(path)
        if route is None:
            raise NotFound(f"there is nothing at {path[:200]}")
        if len(self._routes) >= _MAX_ROUTES:
            self._routes.clear()
        self._routes[path] = route
        return route

    def asking(self, target: bytes) -> Route | None:
        """The route of a request's target if that is a plain path to ask a model at; None for all others."""
        try:
            return self._asking[target]
        except KeyError:
            pass
        found = None if b"%" in target or b"?" in target else find_route(target.decode("latin-1"))
        if found is not None and found.ask is not Ask.INFER:
            found = None
        if len(self._asking) >= _MAX_ROUTES:
            self._asking.clear()
        self._asking[target] = found
        return found

    # --- answers ---------------------------------------------------------------------------------------------

    async def _send(
        self, send: Send, status: int, body: bytes, more: Headers | None = None, kind: tuple[bytes, bytes] = _JSON
    ) -> None:
        headers = [kind, (b"content-length", b"%d" % len(body))]
        if more:
            headers += more
        await self._say(send, status, headers, body)

    async def _say(self, send: Send, status: int, headers: Headers, body: bytes) -> None:
        self.responses[status] += 1
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    # --- inference -------------------------------------------------------------------------------------------

    def decode(
        self, route: Route, headers: Mapping[bytes, bytes], body: Buffer
    ) -> tuple[str, InferRequest, How | None]:
        """Id, request, and how the answer is wanted (None: all JSON) of an infer call, its body whole and unpacked.

        Raises BadRequest, InvalidTensor, CallerError, which name the fault.
        """
        timeout_s = self.config.timeout_s
        if b"msrt-deadline-ms" in headers:
            timeout_s = _milliseconds(headers[b"msrt-deadline-ms"])
        trace = _trace(headers) if b"traceparent" in headers else ""
        length = headers.get(LENGTH_HEADER)
        return decode_infer(body, route.model, route.version, timeout_s=timeout_s, trace=trace, length=length)

    def encode(self, model: str, ident: str, answer: InferAnswer, how: How | None = None) -> tuple[Headers, bytes]:
        """Headers and body of an answer with status 200. Raises InvalidTensor for an output that has no classes."""
        if how is None:
            body = encode_answer(model, ident, answer)
            return [_JSON, (b"content-length", b"%d" % len(body))], body
        if how.classes:
            answer = classified(answer, how.classes, labels_of(self._backend, model, answer.version))
        length, body = encode_mixed(model, ident, answer, how)
        size = (b"content-length", b"%d" % len(body))
        return ([_BINARY, (LENGTH_HEADER, b"%d" % length), size] if length else [_JSON, size]), body

    def ask(
        self, route: Route, headers: Mapping[bytes, bytes], client: str, body: Buffer
    ) -> tuple[str, How | None, Awaitable[InferAnswer]]:
        """The question that such a body is, asked: id, how the answer is wanted, and the answer to come.

        Raises what says that the caller may not, and what `decode` and the backend raise.
        """
        self._access.check(headers, client, Right.ASK)
        ident, request, how = self.decode(route, headers, body)
        return ident, how, self._backend.infer(request)

    def reply(self, model: str, ident: str, answer: InferAnswer, how: How | None) -> tuple[Headers, bytes]:
        """Headers and body of an answer, where it was traced too."""
        said, body = self.encode(model, ident, answer, how)
        if TRACEPARENT in answer.marks:
            said.append((b"traceparent", str(answer.marks[TRACEPARENT]).encode("ascii", "replace")))
        return said, body

    async def _infer(self, route: Route, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        body = await self._body(headers, receive, self.config.max_body)
        if b"content-encoding" in headers:
            body = await self._inflated(body, headers[b"content-encoding"])
        ident, request, how = self.decode(route, headers, body)
        answer = await self._backend.infer(request)
        said, body = self.reply(route.model, ident, answer, how)
        if b"accept-encoding" in headers:
            encoding = encoding_for(headers[b"accept-encoding"], len(body))
            if encoding:
                body = await self._packed(len(body), partial(deflate, body, encoding))
                said = [pair for pair in said if pair[0] != b"content-length"]
                said += [(b"content-encoding", encoding), (b"content-length", b"%d" % len(body))]
        await self._say(send, 200, said, body)

    async def _inflated(self, body: bytes, encoding: bytes) -> bytes:
        """What nobody knows the size of before, and mostly is some times its size."""
        return await self._packed(len(body) * 16, partial(inflate, body, encoding, self.config.max_body))

    async def _packed(self, size: int, work: Callable[[], bytes]) -> bytes:
        return work() if size <= AT_ONCE else await self._offload(work)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes:
        length = headers.get(b"content-length", b"")
        if length.isdigit() and (len(length) > 18 or int(length) > limit):
            raise FrameTooLarge(int(length[:18]), limit, "body")
        message = await self._receive(receive)
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            if len(body) > limit:
                raise FrameTooLarge(len(body), limit, "body")
            return body
        pieces, size = [body], len(body)
        try:
            async with asyncio.timeout(self.config.body_s):
                while message.get("more_body", False):
                    message = await self._receive(receive)
                    pieces.append(message.get("body", b""))
                    size += len(pieces[-1])
                    if size > limit:
                        raise FrameTooLarge(size, limit, "body")
        except TimeoutError:
            raise BadRequest(f"the body did not arrive within {self.config.body_s:g} s") from None
        return b"".join(pieces)

    @staticmethod
    async def _receive(receive: Receive) -> Message:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone("the caller left")
        return message

    # --- everything to look at -------------------------------------------------------------------------------

    async def _look(self, route: Route, scope: Message, receive: Receive, send: Send) -> None:
        backend = self._backend
        match route.ask:
            case Ask.LIVE:
                await self._send(send, 200, b'{"live":true}')
            case Ask.READY:
                ready = backend.ready()
                await self._send(send, 200 if ready else 503, b'{"ready":true}' if ready else b'{"ready":false}')
            case Ask.SERVER:
                await self._send(send, 200, self._server)
            case Ask.MODEL:
                await self._send(send, 200, encode_metadata(backend.metadata(route.model, route.version)))
            case Ask.MODEL_READY:
                ready = backend.ready(route.model, route.version)
                body = msgspec.json.encode({"name": route.model, "ready": ready})
                await self._send(send, 200 if ready else 503, body)
            case Ask.EDGES:
                await self._send(send, 200, msgspec.json.encode({"edges": backend.edges()}), [_NO_CACHE])
            case Ask.OPENAPI:
                await self._send(send, 200, self._openapi())
            case Ask.UNSUPPORTED:
                raise BadRequest(f"{route.model} is unsupported")
            case Ask.CONFIG | Ask.STATISTICS | Ask.INDEX | Ask.LOAD | Ask.UNLOAD:
                body = b""
                if scope["method"] == "POST":
                    body = await self._body(dict(scope["headers"]), receive, _MAX_ASK)
                await self._send(send, 200, await self._repository.answer(route, body))
            case Ask.METRICS:
                await self._send(send, 200, backend.metrics(), [_NO_CACHE], _TEXT)
            case _:
                await self._events(scope, receive, send)

    async def _events(self, scope: Message, receive: Receive, send: Send) -> None:
        if self.streams >= self.config.max_streams:
            text = f"{self.streams} callers follow events already"
            await self._send(send, 503, encode_error(text), [(b"retry-after", b"5")])
            return
        query = parse_qs(scope["query_string"].decode("latin-1"))
        client, headers = scope.get("client"), dict(scope["headers"])

        def may() -> bool:
            return self._access.holds(headers, client[0] if client else "", Right.WATCH)

        events = self._backend.events(query.get("model", [""])[0], query.get("device", [""])[0])
        self.streams += 1
        self.responses[200] += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": [_STREAM, _NO_CACHE]})
            await stream_events(events, receive, send, self._stop, self.config.alive_s, may)
        finally:
            self.streams -= 1


def failed(error: MsrtError) -> tuple[int, Headers, bytes]:
    """Status, headers and body that say what went wrong."""
    status, body = status_of(error), encode_error(error)
    # By the code a client of ours makes the same error of it.
    headers: Headers = [_JSON, (b"content-length", b"%d" % len(body)), (b"msrt-error", error.code.encode())]
    if error.traceparent:
        headers.append((b"traceparent", error.traceparent.encode()))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    elif status in (429, 503):
        wait = getattr(error, "retry_after", 1.0)
        headers.append((b"retry-after", b"%d" % max(math.ceil(wait), 1)))
    elif status == 413:
        headers.append((b"connection", b"close"))
    return status, headers, body


def _trace(headers: Mapping[bytes, bytes]) -> str:
    return joined(headers[b"traceparent"].decode("latin-1"), headers.get(b"tracestate", b"").decode("latin-1"))


def _milliseconds(value: bytes) -> float:
    text = value.strip()
    if not text.isdigit() or len(text) > 12 or not int(text):
        raise BadRequest("the header msrt-deadline-ms is not a number of milliseconds from 1 on")
    return int(text) / 1000
