"""Asking a broker whether it lets a user in: one CONNECT, one CONNACK, goodbye."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from typing import Final

__all__ = ["admitted"]

PATIENCE_S: Final = 1.0
_CONNECT: Final = 0x10
_CLEAN_WITH_PASSWORD: Final = 0xC2
_DISCONNECT: Final = b"\xe0\x00"


async def admitted(host: str, port: int, user: str, password: str, *, tls: bool) -> bool:
    """Whether the broker there takes this user. No broker, and one that is not ready, are a no."""
    context = None
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the password is of this one moment
    writer = None
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            writer.write(_connect(user, password))
            answer = await reader.readexactly(4)
            if answer[3] == 0:
                writer.write(_DISCONNECT)
            return answer[0] == 0x20 and answer[3] == 0
    except (OSError, EOFError):
        return False
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _connect(user: str, password: str) -> bytes:
    """A CONNECT of MQTT 3.1.1 shorter than 128 bytes; the client id is the user name."""
    fields = b"".join(struct.pack(">H", len(text)) + text.encode() for text in (user, user, password))
    body = struct.pack(">H4sBBH", 4, b"MQTT", 4, _CLEAN_WITH_PASSWORD, 10) + fields
    assert len(body) < 128
    return bytes((_CONNECT, len(body))) + body
