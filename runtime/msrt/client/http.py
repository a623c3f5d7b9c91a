"""An edge asked over HTTP: Open Inference Protocol v2 JSON. The only file that imports httpx."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from msrt import errors
from msrt.client.front import Front, Owner
from msrt.client.request import Answer, Request
from msrt.client.tls import Trust, is_near
from msrt.inference.tensors import NUMPY_NAMES, array_of
from msrt.protocol.messages import Event, Parent, TensorSpec
from msrt.serving.backend import ModelInfo

if TYPE_CHECKING:
    import ssl

    import httpx
    from numpy.typing import NDArray

__all__ = ["HttpFront"]

log = structlog.get_logger()
PROBE_S: Final = 1.0
"""How often an edge that did not answer is looked at again."""
CONNECTIONS: Final = 64
LINE_LIMIT: Final = 1 << 20


class _Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] = []


class _Parameters(msgspec.Struct, frozen=True):
    variant: str = ""
    device: str = ""


class _Answer(msgspec.Struct):
    model_version: str
    outputs: list[_Tensor]
    parameters: _Parameters = _Parameters()


class _Metadata(msgspec.Struct):
    name: str
    versions: list[str]
    inputs: list[_Tensor]
    outputs: list[_Tensor]


class _Edges(msgspec.Struct):
    edges: list[Parent]


class _Error(msgspec.Struct):
    error: str = ""


class HttpFront(Front):
    """One edge. `live` until a request cannot reach it, and again once it answers."""

    def __init__(self, url: str, owner: Owner, *, key: str = "", trust: Trust | None = None, pin: str = "") -> None:
        self.url = url.rstrip("/")
        self._owner, self._live, self._key = owner, False, key
        self._trust, self._pin = trust or Trust(), pin
        self._refused: errors.MsrtError | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._look = asyncio.Event()
        self._http: httpx.AsyncClient | None = None

    @property
    def live(self) -> bool:
        return self._live

    @property
    def refused(self) -> errors.MsrtError | None:
        """It is not the server that we were told of; any other may come back."""
        return self._refused

    async def run(self) -> None:
        """Look whether it answers, at once and whenever it did not."""
        if self._key and not is_near(self.url):
            log.warning("client.key_in_the_clear", edge=self.url, hint="use https://")
        try:
            while True:
                if not self._live:
                    try:
                        self._http = self._http or await self._client()
                        await self._ask("GET", "/v2/health/live", PROBE_S)
                        self._set(live=True)
                    except errors.WrongServerKey as error:
                        self._refused = error
                        log.warning("client.wrong_server", edge=self.url, error=str(error))
                        return
                    except errors.MsrtError as error:
                        log.debug("client.edge_away", edge=self.url, error=str(error))
                self._look.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if self._live else PROBE_S):
                        await self._look.wait()
        finally:
            for task in self._tasks.values():
                task.cancel()
            if self._http is not None:
                await self._http.aclose()

    async def _client(self) -> httpx.AsyncClient:
        """Raises WrongServerKey, Disconnected."""
        return _client(self.url, self._key, await self._trust.context(self.url, self._pin))

    def _set(self, *, live: bool) -> None:
        if live != self._live:
            self._live = live
            self._look.set()
            (self._owner.up if live else self._owner.down)(self)

    async def _ask(self, method: str, path: str, timeout_s: float, body: bytes = b"", **headers: str) -> bytes:
        import httpx  # noqa: PLC0415 - only who speaks HTTP pays for it

        assert self._http is not None
        try:
            answer = await self._http.request(method, path, content=body, headers=headers, timeout=timeout_s)
        except httpx.TimeoutException as error:
            raise errors.DeadlineExceeded(f"{self.url} did not answer within {timeout_s:.3g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                hint = "name its fingerprint, or the ca that vouches for it"
                raise errors.WrongServerKey(f"nobody vouches for {self.url}", hint=hint) from error
            raise errors.Disconnected(f"{self.url} cannot be reached: {error}", hint="is it running?") from error
        if answer.status_code >= 300:
            raise _error_of(answer.status_code, answer.content, answer.headers.get("retry-after", ""))
        return answer.content

    # --- asking

    def send(self, requests: Sequence[Request]) -> None:
        for request in requests:
            request.alone = True  # JSON has one request a body
            task = asyncio.get_running_loop().create_task(self._infer(request))
            self._tasks[request.id] = task
            task.add_done_callback(partial(self._ended, request.id))

    def _ended(self, ident: int, task: asyncio.Task[None]) -> None:
        if self._tasks.get(ident) is task:
            del self._tasks[ident]

    async def _infer(self, request: Request) -> None:
        version = f"/versions/{request.version}" if request.version else ""
        left = request.deadline - asyncio.get_running_loop().time()
        try:
            body = await self._ask(
                "POST", f"/v2/models/{request.model}{version}/infer", max(0.01, left), _body(request),
                **{"content-type": "application/json", "msrt-deadline-ms": str(max(1, int(left * 1000)))},
            )  # fmt: skip
            self._owner.answered(request.id, _answer(body))
        except errors.Disconnected as error:
            self._owner.failed(request.id, error, self)
            self._set(live=False)
        except errors.MsrtError as error:
            self._owner.failed(request.id, error, self, getattr(error, "retry_after", 0.0))

    def cancel(self, ident: int) -> None:
        if task := self._tasks.get(ident):
            task.cancel()

    async def metadata(self, model: str, version: int) -> ModelInfo:
        path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "")
        found = _decoded(await self._ask("GET", path, 5.0), _Metadata)

        def specs(tensors: list[_Tensor]) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec(t.name, t.datatype, t.shape) for t in tensors)

        versions = tuple(int(v) for v in found.versions if v.isdigit())
        return ModelInfo(found.name, versions, specs(found.inputs), specs(found.outputs))

    async def edges(self) -> list[Parent]:
        found: _Edges = _decoded(await self._ask("GET", "/msrt/v1/edges", 5.0), _Edges)
        return found.edges

    async def events(self, model: str, device: str) -> AsyncGenerator[Event, None]:
        """Events from now on. Raises Disconnected when the stream ends."""
        import httpx  # noqa: PLC0415 - see _ask

        async with await self._client() as http:
            try:
                async with http.stream(
                    "GET", "/msrt/v1/events", params={"model": model, "device": device},
                    timeout=httpx.Timeout(5.0, read=60.0),
                ) as answer:  # fmt: skip
                    if answer.status_code >= 300:
                        raise _error_of(answer.status_code, await answer.aread(), "")
                    async for line in answer.aiter_lines():
                        if line.startswith("data: ") and len(line) < LINE_LIMIT:
                            yield _decoded(line[6:].encode(), Event)
            except httpx.HTTPError as error:
                raise errors.Disconnected(f"the events of {self.url} ended: {error}") from error
        raise errors.Disconnected(f"the events of {self.url} ended")


def _client(url: str, key: str, context: ssl.SSLContext | None) -> httpx.AsyncClient:
    try:
        import httpx  # noqa: PLC0415 - see HttpFront._ask
    except ImportError as error:
        raise errors.CallerError("http:// needs httpx", hint="pip install 'msrt[client]'") from error
    return httpx.AsyncClient(
        base_url=url, headers={"x-api-key": key} if key else {}, trust_env=False, verify=context or False,
        limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
    )  # fmt: skip


def _error_of(status: int, body: bytes, retry_after: str) -> errors.MsrtError:
    try:
        text = msgspec.json.decode(body, type=_Error).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        text = ""
    text = text or f"the server answered {status}"
    match status:
        case 400:
            return errors.InvalidTensor(text)
        case 401:
            return errors.Unauthorized(text, hint="")
        case 403:
            return errors.Forbidden(text)
        case 404:
            return errors.NotFound(text)
        case 413:
            return errors.CallerError(text)
        case 429 | 503:
            error = errors.Overloaded(text) if status == 503 else errors.RateLimited(text, hint="")
            error.retry_after = float(retry_after) if retry_after.isdigit() else 0.0
            return error
        case 504:
            return errors.DeadlineExceeded(text)
    return errors.PeerError(text)


def _decoded(body: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise errors.MalformedFrame(f"not an answer of an edge: {error}") from error


def _body(request: Request) -> bytes:
    inputs = [
        {"name": spec.name, "datatype": spec.dtype, "shape": spec.shape, "data": _flat(array_of(spec, frame))}
        for spec, frame in zip(request.inputs, request.frames, strict=True)
    ]
    asked: dict[str, object] = {"id": str(request.id), "inputs": inputs}
    if request.outputs:
        asked["outputs"] = [{"name": name} for name in request.outputs]
    return msgspec.json.encode(asked)


def _flat(array: NDArray[Any]) -> list[Any]:
    values: list[Any] = array.ravel().tolist()
    if array.dtype.kind == "f" and not all(map(math.isfinite, values)):
        raise errors.InvalidTensor("NaN and infinity cannot be sent as JSON", hint="use a tcp:// address")
    return values


def _answer(body: bytes) -> Answer:
    import numpy as np  # noqa: PLC0415 - `import msrt` stays light

    found: _Answer = _decoded(body, _Answer)
    outputs = {}
    for tensor in found.outputs:
        dtype = NUMPY_NAMES.get(tensor.datatype, "object")
        values = [math.nan if v is None else v for v in tensor.data] if dtype.startswith("float") else tensor.data
        try:
            outputs[tensor.name] = np.array(values, dtype=dtype).reshape(tensor.shape)
        except (TypeError, ValueError, OverflowError) as error:
            raise errors.MalformedFrame(f"output {tensor.name!r} contradicts itself: {error}") from error
    version = int(found.model_version) if found.model_version.isdigit() else 0
    return Answer(outputs, version, found.parameters.variant, found.parameters.device)
