"""An edge asked over HTTP: the Open Inference Protocol v2."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Final
from urllib.parse import urlencode, urlsplit

import msgspec
import structlog

from msrt import errors
from msrt.client.front import Front, Owner
from msrt.client.http_body import Tensor, decode_answer, decoded, encode_request, error_of
from msrt.client.http_events import lines_of
from msrt.client.http_pool import Exchange, Pool
from msrt.client.http_wire import Response, request_head
from msrt.client.request import Ask, Request
from msrt.client.tls import Trust, is_near
from msrt.protocol.messages import Event, Parent, TensorSpec
from msrt.serving.backend import ModelInfo
from msrt.serving.oip_binary import LENGTH_HEADER

__all__ = ["HttpFront"]

log = structlog.get_logger()
PROBE_S: Final = 1.0
"""How often an edge that did not answer, or does not for so long, is looked at again; and how long that may take."""
CALL_S: Final = 5.0
HEADS: Final = 1024
BINARY: Final = "binary_tensor_data"


class _Metadata(msgspec.Struct):
    name: str
    versions: list[str]
    inputs: list[Tensor]
    outputs: list[Tensor]
    labels: tuple[str, ...] = ()


class _Server(msgspec.Struct):
    extensions: list[str] = []


class _Edges(msgspec.Struct):
    edges: list[Parent]


class HttpFront(Front):
    """One edge. `live` until a request cannot reach it, or it says nothing at all; and again once it answers."""

    def __init__(self, url: str, owner: Owner, *, key: str = "", trust: Trust | None = None, pin: str = "") -> None:
        self.url = url.rstrip("/")
        self._prefix = urlsplit(self.url).path
        """Where a proxy offers the edge below a path."""
        self.forgetful, self.latency_s = False, math.inf
        self._owner, self._live, self._key = owner, False, key
        self._trust, self._pin = trust or Trust(), pin
        self._refused: errors.MsrtError | None = None
        self._away: errors.MsrtError | None = None
        self._open: dict[int, Exchange] = {}
        self._look = asyncio.Event()
        self._pool: Pool | None = None
        self._binary = False
        self._heads: dict[tuple[str, int], bytes] = {}
        self._heard = 0.0
        """When it last said anything."""

    @property
    def live(self) -> bool:
        return self._live

    @property
    def refused(self) -> errors.MsrtError | None:
        """It is not the server that we were told of; any other may come back."""
        return self._refused

    @property
    def away(self) -> errors.MsrtError | None:
        """What the last look at it ended with."""
        return self._away

    async def run(self) -> None:
        """Look whether it answers: at once, whenever it did not, and when it owes answers and is silent."""
        if self._key and not is_near(self.url):
            log.warning("client.key_in_the_clear", edge=self.url, hint="use https://")
        loop = asyncio.get_running_loop()
        try:
            while True:
                silent = bool(self._open) and loop.time() - self._heard >= PROBE_S
                if not self._live or silent:
                    try:
                        await self._probe()
                    except errors.WrongServerKey as error:
                        self._refused = error
                        log.warning("client.wrong_server", edge=self.url, error=errors.words_of(error))
                        return
                    except errors.MsrtError as error:
                        if not is_near(self.url):
                            error.hint = error.hint or "off loopback an edge speaks https://"
                        self._away = error
                        log.debug("client.edge_away", edge=self.url, error=errors.words_of(error))
                        self._down()
                self._look.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PROBE_S):
                        await self._look.wait()
        finally:
            if self._pool is not None:
                await self._pool.close()

    async def _probe(self) -> None:
        """Raises WrongServerKey, Disconnected, DeadlineExceeded."""
        loop = asyncio.get_running_loop()
        if self._pool is None:
            self._pool = Pool(self.url, await self._trust.context(self.url, self._pin))
        first = not self._live
        if first:  # the connection is made first: the look shall measure the way, not the greeting
            await self._get("/v2/health/live", PROBE_S)
        began = loop.time()
        await self._get("/v2/health/live", PROBE_S)
        self.latency_s = loop.time() - began
        if first:
            with contextlib.suppress(errors.MsrtError):  # who may not look at it is told so by its first request
                server: _Server = decoded(await self._get("/v2", PROBE_S), _Server)
                self._binary = BINARY in server.extensions
            self._live, self._away = True, None
            self._owner.up(self)

    def _down(self) -> None:
        """It cannot be reached: what it was asked is asked elsewhere."""
        if not self._live:
            return
        self._live = False
        self._look.set()
        for exchange in list(self._open.values()):
            exchange.leave()
        self._open.clear()
        self._owner.down(self)

    # --- asking

    def send(self, requests: Sequence[Request]) -> None:
        assert self._pool is not None
        now = asyncio.get_running_loop().time()
        if not self._open:
            self._heard = now  # from now on its silence means something
        for request in requests:
            request.alone = True  # one request a body
            try:
                parts = self._parts(request, max(1, int((request.deadline - now) * 1000)))
            except errors.MsrtError as error:
                asyncio.get_running_loop().call_soon(self._owner.failed, request.id, error, self)
                continue
            ident = request.id
            exchange = Exchange(
                parts, partial(self._answered, ident), partial(self._lost, ident), again=request.pin is None
            )
            self._open[ident] = exchange
            self._pool.ask(exchange)

    def _parts(self, request: Request, deadline_ms: int) -> list[bytes | bytearray | memoryview]:
        """The whole request. Raises InvalidTensor, FrameTooLarge."""
        body, json_length = encode_request(request, binary=self._binary)
        head = self._head(request.ask)
        size = sum(map(len, body))
        if json_length:
            kind = b"application/octet-stream\r\ninference-header-content-length: %d" % json_length
        else:
            kind = b"application/json"
        if request.ask.trace:
            kind += b"\r\ntraceparent: " + request.ask.trace.encode("ascii", "replace")
        first = b"%scontent-type: %s\r\ncontent-length: %d\r\nmsrt-deadline-ms: %d\r\n\r\n" % (
            head, kind, size, deadline_ms,
        )  # fmt: skip
        if size < 4096:  # one small write is cheaper than several
            return [b"".join((first, *body))]
        return [first, *body]

    def _head(self, ask: Ask) -> bytes:
        """What is the same for all requests of one kind, up to the headers that differ."""
        key = (ask.model, ask.version)
        head = self._heads.get(key)
        if head is None:
            version = f"/versions/{ask.version}" if ask.version else ""
            head = self._request("POST", f"/v2/models/{ask.model}{version}/infer")[:-2]
            if len(self._heads) >= HEADS:
                self._heads.clear()
            self._heads[key] = head
        return head

    def _request(self, method: str, path: str) -> bytes:
        assert self._pool is not None
        return request_head(method, self._prefix + path, self._pool.host, {"x-api-key": self._key} if self._key else {})

    def _answered(self, ident: int, response: Response) -> None:
        self._open.pop(ident, None)
        self._heard = asyncio.get_running_loop().time()
        try:
            _check(response)
            answer = decode_answer(response.body, response.headers.get(LENGTH_HEADER))
        except errors.MsrtError as error:
            self._owner.failed(ident, error, self, getattr(error, "retry_after", 0.0))
        else:
            self._owner.answered(ident, answer, self)

    def _lost(self, ident: int, error: errors.MsrtError) -> None:
        self._open.pop(ident, None)
        self._owner.failed(ident, error, self)
        if isinstance(error, errors.Disconnected):
            self._down()

    def cancel(self, idents: Sequence[int]) -> None:
        for ident in idents:
            exchange = self._open.pop(ident, None)
            if exchange is not None:
                exchange.leave()

    # --- all else

    async def _get(self, path: str, timeout_s: float) -> memoryview:
        """Raises what the server says, Disconnected, DeadlineExceeded."""
        if self._pool is None:
            raise errors.Disconnected(f"{self.url} was not reached yet")
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        exchange = Exchange((self._request("GET", path),), future.set_result, future.set_exception)
        self._pool.ask(exchange)
        try:
            async with asyncio.timeout(timeout_s):
                response = await future
        except TimeoutError:
            raise errors.DeadlineExceeded(f"{self.url} did not answer within {timeout_s:.3g} s") from None
        finally:
            if not future.done() or future.cancelled():
                exchange.leave()
        self._heard = asyncio.get_running_loop().time()
        _check(response)
        return response.body

    async def metadata(self, model: str, version: int) -> ModelInfo:
        path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "")
        found: _Metadata = decoded(await self._get(path, CALL_S), _Metadata)

        def specs(tensors: list[Tensor]) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec(t.name, t.datatype, t.shape) for t in tensors)

        versions = tuple(int(v) for v in found.versions if v.isdecimal())
        return ModelInfo(found.name, versions, specs(found.inputs), specs(found.outputs), labels=found.labels)

    async def edges(self) -> list[Parent]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        found: _Edges = decoded(await self._get("/msrt/v1/edges", CALL_S), _Edges)
        self.latency_s = loop.time() - began
        return found.edges

    async def events(self, model: str, device: str) -> AsyncGenerator[Event, None]:
        """Events from now on. Raises Disconnected when the stream ends."""
        context = await self._trust.context(self.url, self._pin)
        path = f"{self._prefix}/msrt/v1/events?{urlencode({'model': model, 'device': device})}"
        headers = {"x-api-key": self._key} if self._key else {}
        async with contextlib.aclosing(lines_of(self.url, path, headers, context)) as lines:
            async for line in lines:
                if line.startswith(b"data: "):
                    yield decoded(line[6:], Event)


def _check(response: Response) -> None:
    """Raises what a server says that does not answer."""
    if response.status >= 300:
        headers = response.headers
        code, retry_after = headers.get(b"msrt-error", b""), headers.get(b"retry-after", b"")
        raise error_of(response.status, response.body, code, retry_after)
