"""grpc.aio in our own loop; the only file that imports grpc. Bytes go in and out: messages are for others."""

from __future__ import annotations

import errno
import math
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

import msgspec

from msrt.errors import InvalidAddress, InvalidConfig, MsrtError, PortInUse
from msrt.serving.access import Access, is_local
from msrt.serving.backend import Backend, InferAnswer, Models
from msrt.serving.grpc.codec import Question, decode_request, encode_answer
from msrt.serving.grpc.looks import LOOKS, Look, Looks
from msrt.serving.grpc.stream import Stream
from msrt.serving.oip import status_of
from msrt.serving.parameters import classified, labels_of
from msrt.serving.traced import TRACEPARENT
from msrt.telemetry.context import joined
from msrt.trust.roles import Right

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it reads this once, and else writes to stderr past our log
import grpc
import grpc.aio

__all__ = ["GrpcConfig", "GrpcServer"]

SERVICE: Final = "inference.GRPCInferenceService"
_UNSUPPORTED: Final = {
    "SystemSharedMemoryStatus": "shared memory", "SystemSharedMemoryRegister": "shared memory",
    "SystemSharedMemoryUnregister": "shared memory", "CudaSharedMemoryStatus": "CUDA shared memory",
    "CudaSharedMemoryRegister": "CUDA shared memory", "CudaSharedMemoryUnregister": "CUDA shared memory",
    "TraceSetting": "tracing by request", "LogSettings": "changing the log by request",
}  # fmt: skip
_CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""By HTTP status; what is not here is INTERNAL."""
_SENTENCE: Final = 2000
"""Characters of an error that are sent: it travels in a header."""
_CLOSE_S: Final = 2.0
_TAKEN: Final = frozenset({errno.EADDRINUSE, errno.EACCES})

Pair = Callable[[], tuple[bytes, bytes]]
Context = Any  # grpc.aio.ServicerContext; its methods are not all typed


class GrpcConfig(msgspec.Struct, frozen=True):
    """Bounds and paces of the front."""

    max_message: int = 8 << 20
    """Bytes of one request."""
    timeout_s: float = 10.0
    """Of a request that names none."""
    max_calls: int = 2048
    """In flight at a time, a stream counting as one; one more is RESOURCE_EXHAUSTED."""
    max_in_stream: int = 256
    """Requests of one stream in flight, or answered and not yet taken; then it is not read from."""
    idle_s: float = 75.0
    """A connection without a call is closed after this time; clients open another by themselves."""


class GrpcServer:
    """Serves until closed. `in_flight`, `streams` and `responses` (by code) are what there is to see."""

    def __init__(
        self, backend: Backend, models: Models | None, config: GrpcConfig | None = None, *,
        access: Access | None = None, version: str = "",
    ) -> None:  # fmt: skip
        self.config = config or GrpcConfig()
        self.in_flight = 0
        self.responses: Counter[str] = Counter()
        self._backend, self._looks = backend, Looks(backend, models, version)
        self._access = access or Access()
        self._streams: set[Stream] = set()
        self._server: grpc.aio.Server | None = None

    @property
    def streams(self) -> int:
        return len(self._streams)

    async def start(self, host: str, port: int, *, tls: Pair | None = None, plain: bool = False) -> int:
        """Listen; returns the real port (0 takes a free one). `tls`: gives private key and certificate chain, PEM;
        asked anew at each handshake. `plain`: off loopback without it all the same, for a proxy speaks it.

        Raises PortInUse, InvalidAddress, and InvalidConfig when keys would be heard on the way.
        """
        if tls is None and not plain and host != "localhost" and not is_local(host):
            raise InvalidConfig(f"gRPC on {host} without TLS", hint="set tls_cert, or listen on 127.0.0.1")
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self.config.max_message),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_connection_idle_ms", round(self.config.idle_s * 1000)),
                ("grpc.so_reuseport", 0),  # a port that another process has is an error, not shared with it
            ],
            maximum_concurrent_rpcs=self.config.max_calls,
        )
        server.add_generic_rpc_handlers((_Methods(self._methods()),))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if tls is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, _credentials(tls))
        except RuntimeError:
            raise _why(host, port) from None
        await server.start()
        self._server = server
        return port

    async def close(self) -> None:
        """Take no more, finish what is in flight within two seconds, close."""
        if self._server is None:
            return
        server, self._server = self._server, None
        for stream in self._streams:
            stream.stop()
        await server.stop(_CLOSE_S)

    # --- methods -----------------------------------------------------------------------------------------------------

    def _methods(self) -> dict[str, grpc.RpcMethodHandler]:
        methods = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._stream),
        }
        for name, look in LOOKS.items():
            methods[name] = grpc.unary_unary_rpc_method_handler(self._looking(look))
        for name, what in _UNSUPPORTED.items():
            methods[name] = grpc.unary_unary_rpc_method_handler(self._refusing(what))
        return {f"/{SERVICE}/{name}": handler for name, handler in methods.items()}

    async def _infer(self, data: bytes, context: Context) -> bytes:
        self.in_flight += 1
        try:
            question = self._ask(data, context)
            found = await self._backend.infer(question.request)
            answer = self._tell(question, found)
            if TRACEPARENT in found.marks:
                context.set_trailing_metadata(((TRACEPARENT, str(found.marks[TRACEPARENT])),))
            self.responses["OK"] += 1
            return answer
        except MsrtError as error:
            await self._abort(context, error)
        finally:
            self.in_flight -= 1

    def _ask(self, data: bytes, context: Context) -> Question:
        metadata = context.invocation_metadata()
        self._access.check_metadata(metadata, context.peer(), Right.ASK)
        timeout_s, left = self.config.timeout_s, context.time_remaining()
        if left is not None and left < timeout_s:
            timeout_s = left
        trace = state = ""
        for name, value in metadata:
            if name == "traceparent":
                trace = str(value)
            elif name == "tracestate":
                state = str(value)
        return decode_request(data, timeout_s=timeout_s, trace=joined(trace, state) if trace else "")

    def _tell(self, question: Question, answer: InferAnswer) -> bytes:
        model = question.request.model
        if question.classes:
            answer = classified(answer, question.classes, labels_of(self._backend, model, answer.version))
        return encode_answer(model, question.ident, answer)

    async def _stream(self, _requests: object, context: Context) -> None:
        async def read() -> bytes | None:
            data = await context.read()
            return None if data is grpc.aio.EOF else data

        def ask(data: bytes) -> Question:
            return self._ask(data, context)

        stream = Stream(read, context.write, ask, self._backend.infer, self._tell, self.config.max_in_stream)
        self._streams.add(stream)
        self.in_flight += 1
        try:
            await stream.run()
            self.responses["OK"] += 1
        except MsrtError as error:
            await self._abort(context, error)
        finally:
            self.in_flight -= 1
            self._streams.discard(stream)

    def _looking(self, look: Look) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def answer(data: bytes, context: Context) -> bytes:
            try:
                if look.right is not None:
                    self._access.check_metadata(context.invocation_metadata(), context.peer(), look.right)
                body = await look.ask(self._looks, data)
                self.responses["OK"] += 1
                return body
            except MsrtError as error:
                await self._abort(context, error)

        return answer

    def _refusing(self, what: str) -> Callable[[bytes, Context], Awaitable[NoReturn]]:
        async def refuse(_data: bytes, context: Context) -> NoReturn:
            self.responses["UNIMPLEMENTED"] += 1
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{what} is unsupported")
            raise AssertionError

        return refuse

    async def _abort(self, context: Context, error: MsrtError) -> NoReturn:
        status = status_of(error)
        code = _CODES.get(status, grpc.StatusCode.INTERNAL)
        self.responses[code.name] += 1
        trailing = [("msrt-code", error.code)]
        if error.traceparent:
            trailing.append(("traceparent", error.traceparent))
        if status in (429, 503):
            wait = getattr(error, "retry_after", 1.0)
            trailing.append(("grpc-retry-pushback-ms", str(math.ceil(wait * 1000))))
        await context.abort(code, str(error)[:_SENTENCE], tuple(trailing))
        raise AssertionError


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """By full name; without classes of generated code."""

    def __init__(self, methods: dict[str, grpc.RpcMethodHandler]) -> None:
        self._methods = methods

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._methods.get(handler_call_details.method)


def _credentials(pair: Pair) -> grpc.ServerCredentials:
    shown = [pair()]

    def renewed() -> Any:  # of a thread of grpc's
        now = pair()
        if now is shown[0]:
            return None
        shown[0] = now
        return grpc.ssl_server_certificate_configuration([now])

    return grpc.dynamic_ssl_server_credentials(grpc.ssl_server_certificate_configuration(shown), renewed)


def _why(host: str, port: int) -> MsrtError:
    """What is wrong with an address: grpc only says that it is."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, port))
        except (socket.gaierror, UnicodeError):
            return InvalidAddress(f"{host!r} is no address of this machine")
        except OSError as error:
            if error.errno in _TAKEN:
                return PortInUse(f"cannot listen on {host}:{port}: {error.strerror}")
            return InvalidAddress(f"{host!r} is no address of this machine: {error.strerror}")
    return PortInUse(f"cannot listen on {host}:{port}")
