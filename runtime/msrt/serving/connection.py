"""One caller's connection: uvicorn's, with a short way for the question that is asked most.

Through ASGI a question to a model costs a task, a coroutine, three dicts and two writes, which is as much as all the
rest that an edge does for it. A small, whole POST to `infer` is answered here from a future's callback with one write;
everything else (other routes, bodies in chunks or packed, what is pipelined behind a question, HTTP's odd corners)
takes uvicorn's way.

Who keeps a connection mostly says the same head every time. A head that was read once, and came whole with its body and
nothing else, is known again by its bytes: the same bytes from the same state of the parser mean the same, so they are
not read a second time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple, cast

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
END: Final = b"\r\n\r\n"
HEAD: Final = 2 << 10
"""Bytes of a head that a connection remembers."""


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


class _Heard(NamedTuple):
    """The head of this connection's last question, and what it means."""

    head: bytes
    size: int
    """Of head and body."""
    route: Route
    headers: Mapping[bytes, bytes]


class Connection(HttpToolsProtocol):
    """What is worked at for a caller that left is cancelled: nothing is computed for nobody."""

    app: Any
    _between = True
    """The parser has seen whole messages only."""
    _heard: _Heard | None = None
    _idle_at = 0.0
    """When the last answer was written."""

    # --- in ------------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._between = False
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
        if route is None or not self._has_room():
            return None
        length = -1
        for name, value in self.headers:
            if name == b"content-length":
                length = int(value) if len(value) < 9 and value.isdigit() else -1
            elif name in LONG_WAY:
                return None
        return route if 0 <= length <= min(MOST, app.config.max_body) else None

    def _has_room(self) -> bool:
        return self.limit_concurrency is None or len(self.connections) < self.limit_concurrency

    def data_received(self, data: bytes) -> None:
        heard, cycle = self._heard, self.cycle
        before = cast("object", cycle)
        if (
            heard is not None and len(data) == heard.size and self._between and cycle.response_complete
            and data.startswith(heard.head) and self._has_room()
        ):  # fmt: skip
            question = _Question(heard.route, heard.headers, keep_alive=True)
            question.more_body = False
            self.cycle = cast("RequestResponseCycle", question)
            self._ask(question, data[len(heard.head) :])
            return
        alone = self._between and (cycle is None or cycle.response_complete)
        super().data_received(data)
        asked = cast("object", self.cycle)
        if type(asked) is not _Question:
            return
        if asked.more_body:
            if asked.late is None:
                asked.late = self.loop.call_later(self.app.config.body_s, self._too_slow, asked)
        elif alone and self._between and asked is not before:
            self._remember(asked, data)

    def _remember(self, question: _Question, data: bytes) -> None:
        """If these bytes were that question and nothing else."""
        size = data.find(END) + len(END)
        whole = len(data) == size + int(question.headers[b"content-length"])
        if whole and size <= HEAD and question.keep_alive and data[:1].isalpha():
            self._heard = _Heard(data[:size], len(data), question.route, question.headers)

    def on_message_complete(self) -> None:
        self._between = True
        question = cast("object", self.cycle)
        if type(question) is not _Question:
            super().on_message_complete()
        elif not question.response_complete:
            question.more_body = False
            if question.late is not None:
                question.late.cancel()
            self._ask(question, bytes(question.body))

    # --- out -----------------------------------------------------------------------------------------------------

    def _ask(self, question: _Question, body: bytes) -> None:
        app: App = self.app
        app.in_flight += 1
        try:
            client = self.client[0] if self.client else ""
            question.ident, question.how, answer = app.ask(question.route, question.headers, client, body)
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

    def _unsupported_upgrade_warning(self) -> None:
        super()._unsupported_upgrade_warning()
        self._between = False  # the parser reads no further

    # --- idle ----------------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """uvicorn's, but for the timer that closes an idle connection: that goes on over many answers."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_at = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_again(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        """Looked at when it is due."""

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        left = self._idle_at + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._look_again(left)
        elif self.cycle.response_complete:  # else its answer begins anew
            super().timeout_keep_alive_handler()

    def _look_again(self, wait: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(wait, self.timeout_keep_alive_handler)

    # --- gone ----------------------------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        cycle = cast("object", self.cycle)
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
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
