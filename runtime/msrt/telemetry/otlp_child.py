"""The process beside a master that sends its spans: `python -m msrt.telemetry.otlp_child URL SERVICE NODE NAME`.

Messages of `otlp_beside` on its standard input, accounts on its standard output. It ends when its input does.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from typing import Any, Final, cast

import msgspec
import structlog

from msrt.telemetry.context import TraceContext
from msrt.telemetry.otlp import OtlpSink
from msrt.telemetry.otlp_beside import SIZE, Account, Ended
from msrt.telemetry.spans import Span

LOOK_S: Final = 0.25
"""How often its account is looked at."""
READ: Final = 1 << 16
_decoder: Final = msgspec.msgpack.Decoder(list[Ended])


def span_of(told: Ended) -> Span:
    """The span that was told of. Its tracer is the other process's."""
    span = Span(cast("Any", None), told.name, _context(told.context), None, told.kind, told.began)
    span.parent = None if told.parent is None else _context(told.parent)
    span.links = [_context(link) for link in told.links]
    span.attributes, span.error, span.owner = told.attributes, told.error, told.owner
    return span


def _context(told: tuple[bytes, int, str]) -> TraceContext:
    return TraceContext(int.from_bytes(told[0], "big"), told[1], state=told[2])


def messages(source: int) -> Iterator[bytes | None]:
    """Whole messages until the end of the input; None now and then while there is none."""
    data = b""
    while True:
        if not select.select([source], [], [], LOOK_S)[0]:
            yield None
            continue
        more = os.read(source, READ)
        if not more:
            return
        data += more
        while len(data) >= SIZE.size and len(data) - SIZE.size >= (size := SIZE.unpack_from(data)[0]):
            yield data[SIZE.size : SIZE.size + size]
            data = data[SIZE.size + size :]


def main() -> None:
    """Until standard input ends."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # the other process says it
    url, service, node, name = sys.argv[1:]
    sink = OtlpSink(url, service, node, name)
    said = Account()
    for message in messages(sys.stdin.fileno()):
        if message is not None:
            for told in _decoder.decode(message):
                sink.emit(span_of(told), told.began, told.ended)
        said = _say(sink, said)
    sink.close()
    _say(sink, said)


def _say(sink: OtlpSink, before: Account) -> Account:
    account = Account(sink.sent, sink.dropped, sink.away)
    if account != before:
        sys.stdout.buffer.write(msgspec.json.encode(account) + b"\n")
        sys.stdout.buffer.flush()
    return account


if __name__ == "__main__":
    main()
