"""HTTP as a client reads it: in whatever pieces it comes, against h11, which reads it too."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt.client import AsyncClient
from msrt.client.http_wire import BODY_LIMIT, HEAD_LIMIT, SCRATCH, Reader, request_head
from msrt.errors import CallerError, FrameTooLarge, MalformedFrame

BODIES = st.binary(max_size=300) | st.integers(SCRATCH - 2, SCRATCH + 500).map(
    lambda n: bytes(i % 251 for i in range(n))
)


@st.composite
def responses(draw):
    """A response on the wire, and how its end is told."""
    status, body = draw(st.sampled_from([200, 404, 503])), draw(BODIES)
    how = draw(st.sampled_from(["length", "chunked", "close"]))
    head = b"HTTP/1.1 %d Sure\r\nServer:  any thing \r\n" % status
    if draw(st.booleans()):
        head = b"HTTP/1.1 100 Continue\r\n\r\n" + head
    if how == "length":
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body, how
    if how == "close":
        return head + b"Connection: close\r\n\r\n" + body, how
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3)))
    parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if a < b]
    chunks = b"".join(b"%x;why=not\r\n%s\r\n" % (len(part), part) for part in parts)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nTrailer: yes\r\n\r\n", how


def read(data, sizes, reader=None):
    """What a reader makes of bytes that come in pieces of these sizes, again and again."""
    reader = reader or Reader()
    position, turn = 0, 0
    while position < len(data):
        view = reader.buffer()
        count = min(len(view), sizes[turn % len(sizes)], len(data) - position)
        view[:count] = data[position : position + count]
        position, turn = position + count, turn + 1
        found = reader.filled(count)
        if found is not None:
            assert position == len(data)
            return found
    return reader.ended()


def by_h11(data):
    """The same by another reader."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    connection.receive_data(b"")
    body = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return status, bytes(body)


@given(responses(), st.lists(st.sampled_from([1, 2, 7, 64, 5000, 1 << 20]), min_size=1, max_size=4))
def test_any_pieces_make_the_same_response(response, sizes):
    """Status and body are those that h11 reads, however the bytes are cut."""
    data, _ = response
    found = read(data, sizes if len(data) < 2000 else [max(sizes), 5000])
    assert (found.status, bytes(found.body)) == by_h11(data)
    assert found.headers[b"server"] == b"any thing"


@given(st.binary(max_size=200), st.integers(1, 50))
def test_garbage_is_a_typed_error(data, size):
    """Nothing else is raised, whatever a server says."""
    try:
        found = read(data, [size])
    except (MalformedFrame, FrameTooLarge):
        return
    assert found is None or found.status >= 100


@given(responses(), st.data())
def test_damage_is_a_typed_error(response, data):
    """A response with a byte changed or cut short is read, or refused; never anything else."""
    whole, _ = response
    at = data.draw(st.integers(0, min(len(whole), 400) - 1))
    hurt = whole[:at] + data.draw(st.binary(max_size=2)) + whole[at + 1 :]
    try:
        read(hurt, [997])
    except (MalformedFrame, FrameTooLarge, AssertionError):
        return


def test_a_connection_is_used_again():
    """One response after the other, by the same reader."""
    reader = Reader()
    for number in range(3):
        answer = read(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number, [100], reader)
        assert bytes(answer.body) == b"%d" % number
        assert answer.stays
    assert not read(b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n", [100], reader).stays


def test_what_becomes_of_a_response_does_not_change_the_next():
    """A head is known again; its headers are each response's own."""
    first, second = (read(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx", [99]) for _ in range(2))
    first.headers[b"connection"] = b"close"
    assert second.headers == {b"content-length": b"1"}
    assert read(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx", [99]).stays


def test_pieces_can_be_taken_as_they_come():
    """An endless body is not kept."""
    got = []
    reader = Reader(got.append)
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"3\r\nabc\r\n" * 4
    with pytest.raises(MalformedFrame, match="in the middle"):  # it did not end
        read(data, [5], reader)
    assert b"".join(got) == b"abc" * 4


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (BODY_LIMIT + 1), FrameTooLarge),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEAD_LIMIT + b"\r\n\r\n", FrameTooLarge),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", MalformedFrame),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", MalformedFrame),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", MalformedFrame),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", MalformedFrame),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", MalformedFrame),
        (b"HTTP/2 200 OK\r\n\r\n", MalformedFrame),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", MalformedFrame),
    ],
)  # fmt: skip
def test_what_lies_or_is_too_much_is_refused(data, error):
    """Before memory is given for it."""
    with pytest.raises(error):
        read(data, [1 << 16])


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "a\rb", "a\0b"])
def test_no_header_is_smuggled_in(value):
    """A key with a line break in it does not become two headers."""
    with pytest.raises(CallerError):
        request_head("GET", "/", "host", {"x-api-key": value})
    with pytest.raises(CallerError, match="API key"):
        AsyncClient(["http://127.0.0.1:1"], key=value)
