"""The socket under an MQTT connection: dialled and encrypted on the event loop, without a thread.

paho's own way of connecting blocks, so it is handed a socket that is ready.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket as sockets
import ssl
from collections.abc import Callable
from typing import Any

from msrt import errors

__all__ = ["dial_broker"]


async def dial_broker(host: str, port: int, *, tls: bool, fingerprint: str) -> sockets.socket:
    """A connected socket that does not block and does not wait for more to send (TCP_NODELAY).

    With `tls` the certificate must have this SHA-256, or without a fingerprint be one that this machine trusts.
    Raises OSError, WrongServerKey.
    """
    loop = asyncio.get_running_loop()
    socket = sockets.socket(sockets.AF_INET6 if ":" in host else sockets.AF_INET, sockets.SOCK_STREAM)
    try:
        socket.setblocking(False)  # noqa: FBT003 - the socket module's own
        socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        await loop.sock_connect(socket, (host, port))
        return await _encrypt(loop, socket, host, fingerprint.lower()) if tls else socket
    except BaseException:
        socket.close()
        raise


async def _encrypt(
    loop: asyncio.AbstractEventLoop, socket: sockets.socket, host: str, fingerprint: str
) -> ssl.SSLSocket:
    """TLS, with the pinned certificate checked before a password is sent."""
    context = ssl.create_default_context()
    if fingerprint:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    tls = context.wrap_socket(socket, server_hostname=host, do_handshake_on_connect=False)
    try:
        await _handshake(loop, tls)
        _check(host, tls, fingerprint)
    except ssl.SSLCertVerificationError as error:
        tls.close()
        raise errors.WrongServerKey(f"the broker at {host} has a bad certificate: {error.verify_message}") from error
    except BaseException:
        tls.close()
        raise
    return tls


def _check(host: str, tls: ssl.SSLSocket, fingerprint: str) -> None:
    found = hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()
    if fingerprint and found != fingerprint:
        raise errors.WrongServerKey(
            f"the broker at {host} shows another certificate than the one we expect",
            hint="check the address; if the broker was set up anew, join again with a new invite",
        )


async def _handshake(loop: asyncio.AbstractEventLoop, tls: ssl.SSLSocket) -> None:
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            await _ready(loop.add_reader, loop.remove_reader, tls.fileno())
        except ssl.SSLWantWriteError:
            await _ready(loop.add_writer, loop.remove_writer, tls.fileno())
        else:
            return


async def _ready(add: Callable[..., Any], remove: Callable[[int], Any], fd: int) -> None:
    ready = asyncio.get_running_loop().create_future()
    add(fd, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        remove(fd)
