"""The client in an event loop: what a caller can ask."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from msrt import errors
from msrt.buffers import Buffer
from msrt.client.core import Core
from msrt.client.edges import Edges
from msrt.client.fitting import Label, fitted, labels_of, needs_model
from msrt.client.known import load_caller, same_url
from msrt.client.peers import Member
from msrt.client.pin import Pin
from msrt.client.request import Answer, Ask, Request, Waiter, tensors_of
from msrt.client.sequence import Sequence as Conversation
from msrt.client.streaming import WINDOW, stream_answers
from msrt.client.tls import Trust
from msrt.client.tracing import asked, client_tracer
from msrt.client.waiters import All, One
from msrt.client.watch import watch_events
from msrt.protocol.address import ModelName
from msrt.protocol.messages import Event, Parent, TensorSpec
from msrt.serving.backend import ModelInfo
from msrt.telemetry.spans import Tracer

__all__ = ["AsyncClient"]

MODELS: Final = 256
SPIN_MAX_S: Final = 1.0
"""To stay awake for longer than that serves nobody."""
Inputs = Mapping[str, Any] | Any
"""Arrays by name, or one array, or lists of numbers."""


class AsyncClient:
    """Ask models for answers, from an event loop. Use it in an `async with`.

    urls: edges, `tcp://HOST:PORT`, `http://HOST:PORT` or `https://...`; none: those that the cloud names. state: the
    directory of the identity that `msrt login` made (or a cloud's own); http needs none. key: an API key for http off
    loopback (`msrt key create`); None: that of the environment's MSRT_KEY. fingerprint: of the certificates that edges
    made themselves, as they print it at their start; edges tell of each other's. ca: a PEM file of authorities instead
    of the system's. deadline_s: of requests that name none. trace: an OpenTelemetry collector (OTLP over HTTP,
    http://HOST:4318) that gets a span of each `infer` and `infer_many` that is traced; trace_share: of those that name
    no trace, how many are. Needs msrt[trace]. spin_s: seconds of each wait for an answer in which this process stays
    awake and looks, for a machine with a core that neither edge nor device needs; on two cores it gains nothing.
    """

    def __init__(  # noqa: PLR0913 - a user's one place for all of them
        self, urls: Sequence[str] | str = (), *, state: Path | str | None = None, key: str | None = None,
        fingerprint: str | Sequence[str] = (), ca: Path | str | None = None,
        deadline_s: float = 10.0, member: Member | None = None, trace: str = "", trace_share: float = 0.01,
        spin_s: float = 0.0,
    ) -> None:  # fmt: skip
        if not 0 <= spin_s <= SPIN_MAX_S:
            raise errors.CallerError(f"spin_s is {spin_s:g}", hint=f"it is seconds, from 0 to {SPIN_MAX_S:g}")
        self._collector, self._share, self._spin_s = trace, trace_share, spin_s
        self._tracer: Tracer | None = None
        self._within = self
        """The same client, for what is part of a span already."""
        self._given = [urls] if isinstance(urls, str) else list(urls)
        self._state, self._trust = Path(state) if state else None, Trust(fingerprint, ca)
        self._key = (os.environ.get("MSRT_KEY", "") if key is None else key).strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise errors.CallerError("the API key holds characters that no key has", hint="msrt key create prints one")
        self._deadline_s, self._member = deadline_s, member
        self._edges: Edges
        self._core: Core
        self._models: dict[tuple[str, int], ModelInfo] = {}

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Find the edges and begin to connect. Raises NotEnrolled, InvalidAddress, NotFound (no edge there),
        Disconnected (the cloud must be asked, and is away)."""
        for url in self._given:  # before an identity is looked for, which http does without
            same_url(url)
        if self._member is None and not (self._given and all(u.startswith("http") for u in self._given)):
            self._member = await load_caller(self._state)
        self._core = Core(self._spin_s)
        self._edges = Edges(self._core, self._given, self._member, key=self._key, trust=self._trust)
        self._tracer = client_tracer(self._collector, self._share)
        if self._tracer is not None:
            self._within = copy.copy(self)
            self._within._tracer = None  # noqa: SLF001 - our own
        await self._edges.open()

    async def close(self) -> None:
        """Say goodbye; requests without an answer fail as Disconnected."""
        self._core.close()
        await self._edges.close()
        if self._tracer is not None:
            await self._tracer.sink.finish()

    # --- asking

    async def infer(
        self, model: str, inputs: Inputs, *, deadline: float | None = None, outputs: Sequence[str] = (),
        version: int = 0, priority: int = 0, request_id: int = 0, trace: str = "",
    ) -> Answer:  # fmt: skip
        """Ask [NAMESPACE/]NAME[@VERSION] for an answer.

        inputs: arrays by input name, axis 0 the rows; or one array for a model with one input; lists are made what the
        model takes. deadline: seconds. outputs: names, all if none. version: 0 is what is rolled out. priority: 1
        urgent, 0 normal, -1 background. request_id: your own, so that asking again is the same request; 0 makes one.
        trace: a W3C traceparent. Cancelled, the edge is told, and what was not computed yet is not. Raises
        InvalidTensor, NotFound, Overloaded, Unavailable, DeadlineExceeded, Disconnected.
        """
        if self._tracer is not None and self._tracer.wants(trace):
            ask_it = partial(
                self._within.infer, model, inputs, deadline=deadline, outputs=outputs, version=version,
                priority=priority, request_id=request_id,
            )  # fmt: skip
            return await asked(self._tracer, "client.infer", trace, lambda inner: ask_it(trace=inner), model=model)
        ask, ends = self.asks(model, outputs, version, priority, trace), self.ends(deadline)
        if needs_model(inputs):
            inputs = fitted(inputs, await self._info(ask, ends))
        waiter = One(asyncio.get_running_loop())
        specs, frames = tensors_of(inputs)
        ident = request_id or self._core.next_id()
        self._core.submit((Request(ident, ask, specs, frames, ends, waiter),))
        try:
            return await waiter.future
        except asyncio.CancelledError:
            self._core.abandon(waiter, (ident,))
            raise

    async def infer_many(
        self, model: str, many: Sequence[Inputs], *, deadline: float | None = None, outputs: Sequence[str] = (),
        version: int = 0, priority: int = 0, trace: str = "",
    ) -> list[Answer]:  # fmt: skip
        """The same for many requests at once: they travel together. When all are settled, raises the first error."""
        if self._tracer is not None and self._tracer.wants(trace):
            ask_them = partial(
                self._within.infer_many, model, many, deadline=deadline, outputs=outputs, version=version,
                priority=priority,
            )  # fmt: skip
            return await asked(
                self._tracer, "client.infer_many", trace, lambda inner: ask_them(trace=inner), model=model,
                requests=len(many),
            )  # fmt: skip
        ask, ends = self.asks(model, outputs, version, priority, trace), self.ends(deadline)
        waiter = All(asyncio.get_running_loop(), len(many))
        requests = await self.requests(ask, many, ends, waiter)
        self._core.submit(requests)
        try:
            await waiter.future
        except asyncio.CancelledError:
            self._core.abandon(waiter, [request.id for request in requests])
            raise
        out = []
        for result in waiter.results:
            if not isinstance(result, Answer):
                assert result is not None
                raise result
            out.append(result)
        return out

    def stream(
        self, model: str, many: Iterable[Inputs] | AsyncIterable[Inputs], *, ordered: bool = True,
        window: int = WINDOW, deadline: float | None = None, outputs: Sequence[str] = (), version: int = 0,
        priority: int = 0,
    ) -> AsyncGenerator[Answer, None]:  # fmt: skip
        """Answers to inputs that come one after the other, without end if you like; `async for` takes them.

        At most `window` are asked or wait to be taken at a time: who takes slowly slows the inputs. ordered: in the
        order of the inputs, else as they come; `answer.index` is the input's number. deadline: of each. The first error
        ends the stream. Leaving it cancels what is on its way; close it with contextlib.aclosing to leave at once.
        """
        ask = self.asks(model, outputs, version, priority)
        return stream_answers(self, ask, many, ordered=ordered, window=window, deadline=deadline)

    def sequence(
        self, model: str, *, deadline: float | None = None, outputs: Sequence[str] = (), version: int = 0,
        priority: int = 0, trace: str = "",
    ) -> Conversation:  # fmt: skip
        """A conversation with a model that keeps state between its steps; use it in an `async with`. See Sequence."""
        return Conversation(self, self.asks(model, outputs, version, priority, trace), deadline)

    async def classify(
        self, model: str, inputs: Inputs, *, top: int = 5, output: str = "", deadline: float | None = None,
        version: int = 0, priority: int = 0,
    ) -> list[list[Label]]:  # fmt: skip
        """For each row its `top` classes, the likeliest first, under the names that the model was pushed with.

        output: which one holds the scores; the first if none is named. Raises as `infer`.
        """
        wanted = (output,) if output else ()
        answer = await self.infer(
            model, inputs, deadline=deadline, outputs=wanted, version=version, priority=priority
        )  # fmt: skip
        name = ModelName.parse(model).name
        info = await self._info(Ask(name, answer.version), self.ends(deadline))
        return labels_of(answer, output or (info.outputs[0].name if info.outputs else ""), info.labels, top)

    # --- for those who ask in other ways (sequence, streaming, sync)

    @staticmethod
    def asks(model: str, outputs: Sequence[str] = (), version: int = 0, priority: int = 0, trace: str = "") -> Ask:
        """Raises InvalidAddress, CallerError."""
        name = _parsed(model)
        if version and name.version not in (0, version):
            raise errors.InvalidAddress(f"{model} is not version {version}")
        if priority not in (-1, 0, 1):
            raise errors.CallerError(f"priority {priority} is none", hint="1 is urgent, 0 normal, -1 background")
        if isinstance(outputs, str):
            outputs = (outputs,)
        return Ask(name.name, version or name.version, tuple(outputs), priority, trace)

    def ends(self, deadline: float | None) -> float:
        """When it is too late, on the loop's clock."""
        return asyncio.get_running_loop().time() + self.seconds(deadline)

    async def requests(
        self, ask: Ask, many: Sequence[Inputs], ends: float, waiter: Waiter, first: int = 0, pin: Pin | None = None
    ) -> list[Request]:
        """Requests not asked yet. Raises InvalidTensor, and as `metadata` where inputs are not arrays by name."""
        if any(map(needs_model, many)):
            info = await self._info(ask, ends)
            many = [fitted(inputs, info) if needs_model(inputs) else inputs for inputs in many]
        next_id = self._core.next_id
        return [
            Request(next_id(), ask, *tensors_of(inputs), ends, waiter, index, pin)
            for index, inputs in enumerate(many, first)
        ]

    def submit(self, requests: Sequence[Request]) -> None:
        self._core.submit(requests)

    def plain(self, inputs: Inputs, trace: str) -> bool:
        """Whether such a request can be made without asking anybody first, and without a span."""
        return (self._tracer is None or not self._tracer.wants(trace)) and not needs_model(inputs)

    def seconds(self, deadline: float | None) -> float:
        """That a request has."""
        return self._deadline_s if deadline is None else deadline

    def ask(
        self, ask: Ask, tensors: tuple[tuple[TensorSpec, ...], tuple[Buffer, ...]], seconds: float, ident: int,
        waiter: Waiter,
    ) -> None:  # fmt: skip
        """A request whose parts another thread made; in the loop."""
        self._core.submit((Request(ident or self._core.next_id(), ask, *tensors, self.ends(seconds), waiter),))

    def abandon(self, waiter: Waiter) -> None:
        """Nobody waits for what this one asked."""
        self._core.abandon(waiter)

    async def metadata(self, model: str, *, version: int = 0, deadline: float | None = None) -> ModelInfo:
        """Inputs, outputs, labels and versions of a model. Raises NotFound, Unavailable, Disconnected."""
        return await self._ask_info(self.asks(model, (), version), self.ends(deadline))

    async def _info(self, ask: Ask, ends: float) -> ModelInfo:
        key = (ask.model, ask.version)
        if key not in self._models:
            if len(self._models) >= MODELS:
                self._models.clear()
            self._models[key] = await self._ask_info(ask, ends)
        return self._models[key]

    async def _ask_info(self, ask: Ask, ends: float) -> ModelInfo:
        loop = asyncio.get_running_loop()
        error: errors.MsrtError | None = None
        while True:
            live = [front for front in self._core.fronts if front.live]
            for front in live:
                try:
                    return await front.metadata(ask.model, ask.version)
                except errors.MsrtError as failed:
                    error = failed
            passing = error is None or isinstance(error, errors.Disconnected | errors.Unavailable | errors.Overloaded)
            if self._core.hopeless or (live and not passing) or loop.time() >= ends:
                raise self._core.hopeless or error or self._core.late()
            await asyncio.sleep(0.05)

    @property
    def edges(self) -> list[Parent]:
        """All edges known, as of the last refresh."""
        return list(self._edges.known.edges.values())

    async def events(self, *, model: str = "", device: str = "") -> AsyncGenerator[Event, None]:
        """What devices find in their own readings, from now on, of all edges that speak HTTP; each event once.

        Goes on over the death of an edge; ends never. Raises Unavailable when no edge speaks HTTP.
        """
        async with contextlib.aclosing(watch_events(self._edges.http_fronts(), model, device)) as events:
            async for event in events:
                yield event


@cache
def _parsed(model: str) -> ModelName:
    return ModelName.parse(model)
