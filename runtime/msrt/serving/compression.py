"""Compressed bodies: gzip and deflate, within a bound whatever they unpack to. Pure."""

from __future__ import annotations

import zlib
from typing import Final

from msrt.buffers import Buffer
from msrt.errors import FrameTooLarge
from msrt.serving.oip_binary import BadRequest

__all__ = ["AT_ONCE", "deflate", "encoding_for", "inflate"]

AT_ONCE: Final = 64 << 10
"""Bytes that are packed or unpacked in the event loop; more is done beside it."""
_WORTH: Final = 256
"""Bytes under which an answer stays as it is."""
_EITHER: Final = 32 + zlib.MAX_WBITS
"""Takes gzip and zlib: some call the one by the other's name."""
_WBITS: Final = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
_QUICK: Final = 1


def inflate(body: Buffer, encoding: bytes, limit: int) -> bytes:
    """What a body holds. No more than `limit` bytes are ever made of it.

    Raises BadRequest for another encoding or a broken body, FrameTooLarge.
    """
    name = encoding.strip().lower()
    if name == b"x-gzip":
        name = b"gzip"
    if name in (b"identity", b""):
        return bytes(body)
    if name not in _WBITS:
        raise BadRequest(
            f"Content-Encoding {name.decode('latin-1')[:40]!r} is not supported", hint="use gzip or deflate"
        )
    unpacker = zlib.decompressobj(_EITHER)
    try:
        data = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadRequest(f"the body is not {name.decode()}: {error}") from None
    if len(data) > limit:
        raise FrameTooLarge(len(data), limit, "unpacked body")
    if not unpacker.eof:
        raise BadRequest(f"the {name.decode()} body ends too early")
    if unpacker.unused_data:
        raise BadRequest(f"{len(unpacker.unused_data)} bytes after the end of the {name.decode()} body")
    return data


def encoding_for(accepted: bytes, size: int) -> bytes:
    """How an answer is packed; empty: not at all.

    Only a caller who names one encoding and nothing else asked for it: most libraries list all they know unasked, and
    packing an answer on the way to a neighbour costs more than it saves.
    """
    name = accepted.strip().lower()
    return name if name in _WBITS and size >= _WORTH else b""


def deflate(body: bytes, encoding: bytes) -> bytes:
    """A body as gzip or deflate."""
    packer = zlib.compressobj(_QUICK, zlib.DEFLATED, _WBITS[encoding])
    return packer.compress(body) + packer.flush()
