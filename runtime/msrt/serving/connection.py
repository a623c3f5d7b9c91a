"""One caller's connection: uvicorn's, with a short way for the question that is asked most.

Through ASGI a question to a model costs a task, a coroutine, three dicts and two writes, which is as much as all the
rest that an edge does for it. A small, whole POST to `infer` is answered here from a future's callback with one write;
everything else (other routes, bodies in chunks or packed, what is pipelined behind a question, HTTP's odd corners)
takes uvicorn's way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, cast

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from msrt.errors import MsrtError
from msrt.serving.app import GONE, TASK, App, Headers, failed
from msrt.serving.backend import InferAnswer
from msrt.serving.oip import BadRequest
from msrt.serving.oip_binary import How
from msrt.serving.routes import Route

__all__ = ["Connection"]

log = structlog.get_logger()
MOST: Final = 256 << 10
"""Bytes of a body that is taken the short way."""
STATUS: Final = {int(status): f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
LONG_WAY: Final = frozenset({b"accept-encoding", b"content-encoding", b"transfer-encoding", b"upgrade"})
CLOSE: Final = b"connection: close\r\n"


class _Unheard:
    """Where uvicorn would wake the task of a request: there is none."""

    def set(self) -> None:
        """Nobody waits."""


class _Question:
    """A question to a model on its way. To uvicorn it looks like its own cycle: it collects the body here, and queues
    what comes behind until `response_complete`.
    """

    __slots__ = (
        "answer", "body", "disconnected", "headers", "how", "ident", "keep_alive", "late", "message_event", "more_body",
        "response_complete", "route",
    )  # fmt: skip

    def __init__(self, route: Route, headers: Mapping[bytes, bytes], *, keep_alive: bool) -> None:
        self.route, self.headers, self.keep_alive = route, headers, keep_alive
        self.body = bytearray()
        self.more_body = True
        self.response_complete = self.disconnected = False
        self.message_event = _UNHEARD
        self.ident = ""
        self.how: How | None = None
        self.answer: asyncio.Future[InferAnswer] | None = None
        self.late: asyncio.TimerHandle | None = None
        """Ends a body that does not come."""


_UNHEARD = _Unheard()


class Connection(HttpToolsProtocol):
    """What is worked at for a caller that left is cancelled: nothing is computed for nobody."""

    app: Any

    # --- in ------------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        route = self._short_way()
        if route is None:
            url, headers, expect = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url, self.expect_100_continue = url, expect
            self.headers.extend(headers)
            super().on_headers_complete()
            return
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        self.cycle = cast("RequestResponseCycle", _Question(route, dict(self.headers), keep_alive=keep_alive))

    def _short_way(self) -> Route | None:
        cycle = self.cycle
        if self.parser.get_method() != b"POST" or self.expect_100_continue or self.pipeline:
            return None
        if cycle is not None and not cycle.response_complete:
            return None
        app: App = self.app
        route = app.asking(self.url)
        if route is None or (self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency):
            return None
        length = -1
        for name, value in self.headers:
            if name == b"content-length":
                length = int(value) if len(value) < 9 and value.isdigit() else -1
            elif name in LONG_WAY:
                return None
        return route if 0 <= length <= min(MOST, app.config.max_body) else None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        question = cast("object", self.cycle)
        if type(question) is _Question and question.more_body and question.late is None:
            question.late = self.loop.call_later(self.app.config.body_s, self._too_slow, question)

    def on_message_complete(self) -> None:
        question = cast("object", self.cycle)
        if type(question) is not _Question:
            super().on_message_complete()
        elif not question.response_complete:
            question.more_body = False
            if question.late is not None:
                question.late.cancel()
            self._ask(question)

    # --- out -----------------------------------------------------------------------------------------------------

    def _ask(self, question: _Question) -> None:
        app: App = self.app
        app.in_flight += 1
        try:
            client = self.client[0] if self.client else ""
            question.ident, question.how, answer = app.ask(
                question.route, question.headers, client, bytes(question.body)
            )
        except Exception as error:  # noqa: BLE001 - `_fail` says which
            self._fail(question, error)
            return
        question.answer = asyncio.ensure_future(answer)
        question.answer.add_done_callback(lambda done: self._answered(question, done))

    def _answered(self, question: _Question, done: asyncio.Future[InferAnswer]) -> None:
        if done.cancelled():
            self.app.in_flight -= 1
            if not question.disconnected:
                self.transport.close()
            return
        error = done.exception()
        if error is None:
            try:
                headers, body = self.app.reply(question.route.model, question.ident, done.result(), question.how)
            except Exception as odd:  # noqa: BLE001 - `_fail` says which
                self._fail(question, odd)
            else:
                self._write(question, 200, headers, body)
        else:
            self._fail(question, error)

    def _fail(self, question: _Question, error: BaseException) -> None:
        if isinstance(error, MsrtError):
            self._write(question, *failed(error))
            return
        log.error("http.failed", exc_info=error)
        body = b"Internal Server Error"
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
        question.keep_alive = False
        self._write(question, 500, headers, body)

    def _too_slow(self, question: _Question) -> None:
        if question.more_body and not question.response_complete and not question.disconnected:
            self.app.in_flight += 1
            question.keep_alive = False
            self._fail(question, BadRequest(f"the body did not arrive within {self.app.config.body_s:g} s"))

    def _write(self, question: _Question, status: int, headers: Headers, body: bytes) -> None:
        app: App = self.app
        app.in_flight -= 1
        question.response_complete = True
        if question.disconnected or self.transport.is_closing():
            return
        app.responses[status] += 1
        pieces = [STATUS[status]]
        for name, value in headers:
            if name == b"connection":
                question.keep_alive = False
            else:
                pieces += (name, b": ", value, b"\r\n")
        if not question.keep_alive:
            pieces.append(CLOSE)
        pieces += (b"\r\n", body)
        self.transport.write(b"".join(pieces))
        if not question.keep_alive:
            self.transport.close()
        self.on_response_complete()

    # --- gone ----------------------------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        cycle = cast("object", self.cycle)
        super().connection_lost(exc)
        if type(cycle) is _Question:
            if cycle.late is not None:
                cycle.late.cancel()
            if cycle.answer is not None and not cycle.answer.done():
                cycle.answer.cancel()
        elif isinstance(cycle, RequestResponseCycle) and not cycle.response_complete:
            # ASGI has no other way to tell a task than a second one that listens, for every request.
            scope = cast("dict[str, Any]", cycle.scope)
            task: asyncio.Task[None] | None = scope.get(TASK)
            if task is not None and not task.done():
                scope[GONE] = True
                task.cancel()
