"""HTTP/1.1 as a client speaks it: the bytes of a request's head, and a response read from whatever pieces come. Pure.

A body of known length is received where it stays: `buffer` hands out its own memory, so arrays that are made from it
were copied once, by the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

from msrt.errors import CallerError, FrameTooLarge, MalformedFrame
from msrt.serving.oip_binary import LENGTH_HEADER

__all__ = ["BODY_LIMIT", "HEAD_LIMIT", "Reader", "Response", "request_head"]

HEAD_LIMIT: Final = 64 << 10
BODY_LIMIT: Final = 256 << 20
SCRATCH: Final = 64 << 10
ALIGN: Final = 64
"""Binary tensors begin at a multiple of so many bytes from the start of their memory."""
REMEMBERED: Final = 1 << 10
"""Bytes of a head up to which what it means is remembered ..."""
HEADS: Final = 256
"""... of so many."""
_END: Final = b"\r\n\r\n"
_NO_BODY: Final = (204, 304)


def request_head(method: str, path: str, host: str, headers: Mapping[str, str]) -> bytes:
    """Up to the empty line; names and values must be without line breaks. Raises CallerError."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or "\0" in head or head.count("\r") != len(lines) - 1:
        raise CallerError("a header of the request has a line break in it")
    return head.encode("latin-1", "replace") + _END


class Response:
    """What a server answered. `body` is writable memory of its own, or b""."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status, self.headers = status, headers
        self.body: memoryview = memoryview(b"")

    @property
    def stays(self) -> bool:
        """The connection may be used again."""
        return self.headers.get(b"connection", b"").lower() != b"close"


class Reader:
    """Reads one response after the other. Give it what was received by `buffer` and `filled`.

    `piece`: bodies are handed to it as they come, however long they get, instead of being kept.
    """

    def __init__(self, piece: Callable[[bytes], None] | None = None) -> None:
        self._piece = piece
        self._scratch = memoryview(bytearray(SCRATCH))
        self._head = bytearray()
        self.response: Response | None = None
        """The one whose head is whole."""
        self._body: memoryview | None = None
        self._pad = self._got = 0
        self._left = 0
        """Bytes of a body of known length that are to come."""
        self._chunks: _Chunks | None = None
        self._endless: bytearray | None = None

    @property
    def begun(self) -> bool:
        """Something of a response is here."""
        return bool(self._head) or self.response is not None

    def buffer(self) -> memoryview:
        """Where to receive to."""
        if self._body is not None and self._piece is None:
            return self._body[self._pad + self._got :]
        return self._scratch

    def filled(self, count: int) -> Response | None:
        """So many bytes were received there. A whole response, or None. Raises MalformedFrame, FrameTooLarge."""
        if self._body is not None and self._piece is None:
            return self._more(count)
        if self.response is not None:
            return self._feed(bytes(self._scratch[:count]))
        if not self._head:  # nearly always it is here at once
            return self._parse(bytes(self._scratch[:count]))
        self._head += self._scratch[:count]
        data = bytes(self._head)
        self._head.clear()
        return self._parse(data)

    def ended(self) -> Response | None:
        """The server closed the connection: a whole response if that is how it ends. Raises MalformedFrame."""
        if self._endless is not None:
            return self._whole(memoryview(self._endless))
        if self.begun:
            raise MalformedFrame("the connection ended in the middle of an answer")
        return None

    # --- heads

    def _parse(self, data: bytes) -> Response | None:
        end = data.find(_END)
        if end < 0:
            if len(data) > HEAD_LIMIT:
                raise FrameTooLarge(len(data), HEAD_LIMIT, "header")
            self._head += data
            return None
        if end > HEAD_LIMIT:
            raise FrameTooLarge(end, HEAD_LIMIT, "header")
        status, headers = (_known_head if end <= REMEMBERED else _head_of)(data[:end])
        rest = data[end + 4 :]
        if 100 <= status < 200:  # not the answer yet
            return self._parse(rest) if rest else None
        response = self.response = Response(status, headers.copy())
        if status in _NO_BODY:
            return self._whole(memoryview(b""))
        coding = headers.get(b"transfer-encoding", b"").lower()
        if coding:
            if coding != b"chunked":
                raise MalformedFrame("the server answers in a transfer encoding that we do not know")
            self._chunks = _Chunks()
            self._endless = None
            return self._feed(rest)
        if b"content-length" in headers:
            return self._begin(response, rest)
        self._endless = bytearray()
        return self._feed(rest)

    def _begin(self, response: Response, rest: bytes) -> Response | None:
        length = _number(response.headers[b"content-length"])
        if self._piece is not None:
            self._left = length
            return self._feed(rest)
        if length > BODY_LIMIT:
            raise FrameTooLarge(length, BODY_LIMIT, "body")
        if len(rest) > length:
            raise MalformedFrame("there is more than the answer has")
        json = response.headers.get(LENGTH_HEADER, b"0")
        self._pad = -(_number(json) % ALIGN) % ALIGN
        self._body, self._got = _memory(self._pad + length), 0
        self._body[self._pad : self._pad + len(rest)] = rest
        return self._more(len(rest))

    # --- bodies

    def _more(self, count: int) -> Response | None:
        assert self._body is not None
        self._got += count
        if self._pad + self._got < len(self._body):
            return None
        return self._whole(self._body[self._pad :])

    def _feed(self, data: bytes) -> Response | None:
        if self._chunks is not None:
            for part in self._chunks.feed(data):
                self._keep(part)
            if not self._chunks.over:
                return None
            return self._whole(memoryview(self._endless or b""))
        self._keep(data)
        if self._piece is not None and self._endless is None:
            self._left -= len(data)
            if self._left <= 0:
                return self._whole(memoryview(b""))
        return None

    def _keep(self, part: bytes) -> None:
        if self._piece is not None:
            self._piece(part)
            return
        if self._endless is None:
            self._endless = bytearray()
        self._endless += part
        if len(self._endless) > BODY_LIMIT:
            raise FrameTooLarge(len(self._endless), BODY_LIMIT, "body")

    def _whole(self, body: memoryview) -> Response:
        response = self.response
        assert response is not None
        response.body = body
        self.response = self._body = self._chunks = self._endless = None
        return response


class _Chunks:
    """A chunked body, decoded as it comes."""

    def __init__(self) -> None:
        self.over = False
        self._rest = b""
        self._left = 0
        """Bytes of the present chunk that are to come."""
        self._last = False
        """The last chunk was there: what follows are trailers."""

    def feed(self, data: bytes) -> list[bytes]:
        data, self._rest = self._rest + data, b""
        out: list[bytes] = []
        while data and not self.over:
            if self._left > 2:
                part = data[: self._left - 2]
                out.append(part)
                self._left -= len(part)
                data = data[len(part) :]
            elif self._left:
                if not b"\r\n"[2 - self._left :].startswith(data[: self._left]):
                    raise MalformedFrame("a chunk is longer than it said")
                step = min(self._left, len(data))
                self._left -= step
                data = data[step:]
            else:
                line, mark, after = data.partition(b"\r\n")
                if not mark:
                    if len(data) > HEAD_LIMIT:
                        raise FrameTooLarge(len(data), HEAD_LIMIT, "header")
                    self._rest = data
                    break
                data = after
                self._line(line)
        if self.over and data:
            raise MalformedFrame("there is more than the answer has")
        return out

    def _line(self, line: bytes) -> None:
        if self._last:
            self.over = not line
            return
        digits = line.partition(b";")[0].strip()
        if not digits or len(digits) > 12 or digits.strip(b"0123456789abcdefABCDEF"):
            raise MalformedFrame("a chunk has no size")
        size = int(digits, 16)
        self._last = not size
        self._left = size + 2 if size else 0


def _head_of(data: bytes) -> tuple[int, dict[bytes, bytes]]:
    first, *lines = data.split(b"\r\n")
    parts = first.split(b" ", 2)
    if len(parts) < 2 or parts[0] not in (b"HTTP/1.1", b"HTTP/1.0") or len(parts[1]) != 3 or not parts[1].isdigit():
        raise MalformedFrame("the server does not answer in HTTP/1.1")
    headers: dict[bytes, bytes] = {}
    if parts[0] == b"HTTP/1.0":
        headers[b"connection"] = b"close"
    for line in lines:
        name, mark, value = line.partition(b":")
        name = name.lower()
        if not mark or not name or name.strip() != name:
            raise MalformedFrame("a header of the server's answer is none")
        value = value.strip()
        if headers.setdefault(name, value) != value and name == b"content-length":
            raise MalformedFrame("the server's answer has two lengths")
    return int(parts[1]), headers


_known_head: Final = lru_cache(HEADS)(_head_of)
"""A server says the same head again and again."""


def _number(value: bytes) -> int:
    if not value.isdigit() or len(value) > 15:
        raise MalformedFrame("a length in the server's answer is no number")
    return int(value)


def _memory(size: int) -> memoryview:
    """So many bytes; large ones not filled with zeros first."""
    if size < SCRATCH:
        return memoryview(bytearray(size))
    import numpy as np  # noqa: PLC0415 - `import msrt` stays light

    return np.empty(size, np.uint8).data
