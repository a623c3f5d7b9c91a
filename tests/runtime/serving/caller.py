"""A front with a made-up master behind it, called as ASGI without a socket."""

from __future__ import annotations

import asyncio
import json
import struct

from msrt.errors import NotFound
from msrt.protocol.messages import Event, Parent, TensorSpec
from msrt.serving.app import App, AppConfig
from msrt.serving.backend import InferAnswer, ModelInfo


class Master:
    """Doubles what it is asked, and remembers it."""

    def __init__(self, error=None) -> None:
        self.error = error
        self.asked = []
        self.queue: asyncio.Queue = asyncio.Queue()
        self.followers = 0
        self.unfollowed = asyncio.Event()
        self.up = True
        self.marks = {}

    async def infer(self, request):
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        outputs = tuple(TensorSpec("y", spec.dtype, spec.shape) for spec in request.inputs)
        return InferAnswer(request.version or 3, "int8", "cam-1", outputs, request.frames, self.marks)

    def metadata(self, model, version=0):
        if model != "digits" or version not in (0, 1, 3):
            raise NotFound(f"no model {model} is served here")
        return ModelInfo("digits", (1, 3), (TensorSpec("x", "FP32", (-1, 64)),), (TensorSpec("y", "FP32", (-1, 10)),))

    def ready(self, model="", version=0):
        if model:
            self.metadata(model, version)
        return self.up

    def edges(self):
        return [Parent("a" * 26, link_key=b"k" * 32, zmq="tcp://127.0.0.1:1", http="http://127.0.0.1:2", region="eu")]

    def metrics(self):
        return b"requests_total 1\n"

    async def events(self, model, device):
        self.followers += 1
        try:
            while (event := await self.queue.get()) is not None:
                if model in ("", event.model) and device in ("", event.name):
                    yield event
        finally:
            self.followers -= 1
            self.unfollowed.set()


def event(seq, model="digits", name="cam-1"):
    return Event("n" * 26, seq, name, "camera", model, 1, 1.5, {"label": 7})


class Answer:
    def __init__(self, messages) -> None:
        self.status = messages[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        self.body = b"".join(message.get("body", b"") for message in messages[1:])
        if "content-length" in self.headers:
            assert int(self.headers["content-length"]) == len(self.body)

    @property
    def json(self):
        return json.loads(self.body)


def call(
    path, body=None, *, master=None, method=None, headers=None, pieces=None, app=None, access=None,
    peer="127.0.0.1", **config,
) -> Answer:  # fmt: skip
    """One request, whole."""
    app = app or App(master or Master(), AppConfig(**config), access=access)
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    pieces = pieces or [body or b""]
    given = {"content-length": str(len(body or b"")), **(headers or {})}
    scope = {
        "type": "http",
        "method": method or ("GET" if body is None else "POST"),
        "path": path,
        "query_string": b"",
        "client": (peer, 50000) if peer else None,
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    incoming = [
        {"type": "http.request", "body": piece, "more_body": n + 1 < len(pieces)} for n, piece in enumerate(pieces)
    ]
    sent = []

    async def receive():
        if incoming:
            return incoming.pop(0)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert app.in_flight == 0
    return Answer(sent)


def infer(data, *, dtype="FP32", shape=None, path="/v2/models/digits/infer", **more):
    """Ask with one tensor `x`."""
    body = {
        "inputs": [{"name": "x", "shape": [len(data)] if shape is None else shape, "datatype": dtype, "data": data}]
    }
    body.update(more.pop("extra", {}))
    return call(path, body, **more)


def floats(frame):
    return list(struct.unpack(f"<{len(frame) // 4}f", frame))
