"""What pyzmq alone takes for the way of a request: a caller, a process that passes on, a process that answers at once.

CURVE on both hops, ROUTER in the middle, plain sockets on uvloop's readers, packets of a small model's sizes. Nothing
is decoded, decided or computed: a floor for one request after the other.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

import zmq

from msrt.process import _new_loop

__all__ = ["Bare"]

QUESTION = [b"h" * 120, b"x" * 256]
ANSWER = [b"h" * 160, b"y" * 40]
EVENTS, READABLE = int(zmq.EVENTS), int(zmq.POLLIN)
Socket = zmq.Socket[bytes]


class _Link:
    """A socket on the loop; `got` is called with each packet."""

    def __init__(self, socket: Socket, got: Callable[[list[bytes]], None]) -> None:
        self._socket, self._got = socket, got
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(int(socket.getsockopt(zmq.FD)), self._read)
        self._loop.call_soon(self._read)

    def _waits(self) -> bool:
        return bool(int(self._socket.getsockopt(EVENTS)) & READABLE)

    def _read(self) -> None:
        while self._waits():
            self._got(self._socket.recv_multipart(zmq.NOBLOCK))

    def send(self, packet: list[bytes]) -> None:
        self._socket.send_multipart(packet, zmq.NOBLOCK)
        if self._waits():
            self._loop.call_soon(self._read)


def _dialled(context: zmq.Context[Socket], url: str, key: bytes) -> Socket:
    socket = context.socket(zmq.DEALER)
    socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
    socket.curve_serverkey = key
    socket.connect(url)
    return socket


async def _pass_on() -> None:
    """Print where callers and the answerer dial, and the key; pass between them."""
    context = zmq.Context()
    public, secret = zmq.curve_keypair()
    links: list[_Link] = []
    answerer = b""
    early: list[list[bytes]] = []

    def asked(packet: list[bytes]) -> None:
        if answerer:
            links[1].send([answerer, *packet])
        else:
            early.append(packet)

    def answered(packet: list[bytes]) -> None:
        nonlocal answerer
        if answerer:
            links[0].send(packet[1:])
            return
        answerer = packet[0]  # its first word is a greeting
        for one in early:
            asked(one)

    ports = []
    for got in (asked, answered):
        socket = context.socket(zmq.ROUTER)
        socket.curve_secretkey, socket.curve_publickey, socket.curve_server = secret, public, True
        ports.append(socket.bind_to_random_port("tcp://127.0.0.1"))
        links.append(_Link(socket, got))
    sys.stdout.write(f"{ports[0]} {ports[1]} {public.decode()}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def _answer(url: str, key: str) -> None:
    socket = _dialled(zmq.Context(), url, key.encode())
    link = _Link(socket, lambda packet: link.send([packet[0], *ANSWER]))
    link.send([b""])
    await asyncio.Event().wait()


class Bare:
    """The two processes, and a caller in this one's loop."""

    def __init__(self) -> None:
        argv = [sys.executable, "-m", "tests.bench.bare"]
        self._procs = [subprocess.Popen([*argv, "pass"], stdout=subprocess.PIPE, text=True)]
        assert self._procs[0].stdout is not None
        front, back, key = self._procs[0].stdout.readline().split()
        self._procs.append(subprocess.Popen([*argv, "answer", f"tcp://127.0.0.1:{back}", key]))
        self._context: zmq.Context[Socket] = zmq.Context()
        self._socket = _dialled(self._context, f"tcp://127.0.0.1:{front}", key.encode())
        self._link = _Link(self._socket, self._answered)
        self._future: asyncio.Future[list[bytes]]

    def _answered(self, packet: list[bytes]) -> None:
        self._future.set_result(packet)

    async def ask(self) -> None:
        """One after the other."""
        self._future = asyncio.get_running_loop().create_future()
        self._link.send(QUESTION)
        await self._future

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for proc in self._procs:
            proc.kill()
            proc.wait()
        asyncio.get_running_loop().remove_reader(int(self._socket.getsockopt(zmq.FD)))
        self._context.destroy(0)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(_pass_on() if sys.argv[1] == "pass" else _answer(*sys.argv[2:]))
