"""The HTTP front: one ASGI callable, no framework. Paths by `routes`, bodies by `oip`, work by the Backend."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

import msgspec

from msrt.errors import FrameTooLarge, MsrtError, NotFound
from msrt.serving.access import Access
from msrt.serving.backend import Backend
from msrt.serving.oip import BadRequest, decode_infer, encode_answer, encode_error, encode_metadata, status_of
from msrt.serving.routes import METHODS, NEEDS, Ask, Route, find_route
from msrt.serving.sse import stream_events
from msrt.trust.roles import Right

__all__ = ["App", "AppConfig"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
_STREAM = (b"content-type", b"text/event-stream")
_NO_CACHE = (b"cache-control", b"no-store")
_MAX_ROUTES = 1024


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


class App:
    """ASGI. `in_flight`, `streams` and `responses` (by status) are what there is to see."""

    def __init__(
        self, backend: Backend, config: AppConfig | None = None, *, version: str = "", access: Access | None = None
    ) -> None:
        self.config = config or AppConfig()
        self._access = access or Access()
        self.in_flight = 0
        self.streams = 0
        self.responses: Counter[int] = Counter()
        self._backend = backend
        self._server = msgspec.json.encode({"name": "msrt", "version": version, "extensions": []})
        self._routes: dict[str, Route] = {}
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
                body = await self._infer(route, headers, receive)
                await self._send(send, 200, body)
            else:
                await self._look(route, scope, receive, send)
        except _Gone:
            return
        except MsrtError as error:
            await self._fail(send, error)
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

    # --- answers ---------------------------------------------------------------------------------------------

    async def _send(
        self, send: Send, status: int, body: bytes, more: Headers | None = None, kind: tuple[bytes, bytes] = _JSON
    ) -> None:
        self.responses[status] += 1
        headers = [kind, (b"content-length", b"%d" % len(body))]
        if more:
            headers += more
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _fail(self, send: Send, error: MsrtError) -> None:
        status = status_of(error)
        more: Headers = [(b"msrt-error", error.code.encode())]  # a client of ours makes the same error of it
        if status == 401:
            more += [(b"www-authenticate", b"Bearer")]
        elif status in (429, 503):
            wait = getattr(error, "retry_after", 1.0)
            more += [(b"retry-after", b"%d" % max(math.ceil(wait), 1))]
        elif status == 413:
            more += [(b"connection", b"close")]
        await self._send(send, status, encode_error(error), more)

    # --- inference -------------------------------------------------------------------------------------------

    async def _infer(self, route: Route, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        if b"inference-header-content-length" in headers:
            raise BadRequest("tensors in binary are not supported", hint="send them as JSON")
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise BadRequest("compressed bodies are not supported")
        timeout_s = self.config.timeout_s
        if b"msrt-deadline-ms" in headers:
            timeout_s = _milliseconds(headers[b"msrt-deadline-ms"])
        body = await self._body(headers, receive)
        trace = headers.get(b"traceparent", b"").decode("latin-1")[:64]
        ident, request = decode_infer(body, route.model, route.version, timeout_s=timeout_s, trace=trace)
        answer = await self._backend.infer(request)
        return encode_answer(route.model, ident, answer)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        limit = self.config.max_body
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


def _milliseconds(value: bytes) -> float:
    text = value.strip()
    if not text.isdigit() or len(text) > 12 or not int(text):
        raise BadRequest("the header msrt-deadline-ms is not a number of milliseconds from 1 on")
    return int(text) / 1000
