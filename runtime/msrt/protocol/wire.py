"""Message to frames and back. Every byte limit of the wire stands here, and msgpack stops here.

A packet is a list of frames. Frame 0 is the header, a msgpack array
`[version, delivery, seq, epoch, ack_session, ack_durable, body]` whose body is the message as a map with its tag
under "t"; the frames after it are raw (tensors, chunks, journal blocks) and are never copied or looked into here.
README.md beside this file is the specification; its golden vectors are checked both ways.

Reading a peer's bytes goes in four steps, cheapest first: the sizes are capped, the outline is walked without making
anything (a length that lies is found before a list of that length is made), msgpack unpacks under strict lengths,
msgspec converts to the one typed message. Whatever the bytes, `decode` raises `MalformedFrame`,
`FrameTooLarge`, `UnknownMessage` or `VersionMismatch` and nothing else.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Annotated, Any, Final, NoReturn, TypeVar

import msgpack
import msgspec

from msrt.buffers import Buffer
from msrt.errors import CallerError, FrameTooLarge, MalformedFrame, UnknownMessage, VersionMismatch
from msrt.protocol import messages
from msrt.protocol.messages import DeliveryClass
from msrt.protocol.nesting import MAX_DEPTH, check_message, check_value, is_free_form, is_plain
from msrt.protocol.packing import MAX_FRAMES, frame_size, pack_frames, unpack_frames

__all__ = [
    "HEADER_LIMIT",
    "HEADER_ROOM",
    "MAX_CONTAINERS",
    "MAX_DEPTH",
    "MAX_FRAMES",
    "MAX_ITEMS",
    "MQTT_LIMIT",
    "PROTOCOL_VERSION",
    "SUPPORTED_VERSIONS",
    "ZMQ_LIMIT",
    "Packet",
    "chunk_limit",
    "decode",
    "encode",
    "pack",
    "pack_frames",
    "unpack",
    "unpack_frames",
]

T = TypeVar("T")

PROTOCOL_VERSION: Final = 1
"""N. A change that an old reader cannot ignore adds one."""
SUPPORTED_VERSIONS: Final = frozenset({PROTOCOL_VERSION})
"""N and, from version 2 on, N-1."""
ZMQ_LIMIT: Final = 1 << 20
"""Largest packet on a ZeroMQ link, all frames together."""
MQTT_LIMIT: Final = 256 << 10
"""Largest packet on an MQTT link, packed."""
HEADER_LIMIT: Final = 512 << 10
"""Largest frame 0."""
HEADER_ROOM: Final = 1 << 10
"""What a chunk leaves free in its packet for frame 0 and the packing."""
MAX_ITEMS: Final = 16_384
"""Elements of one array or map in a header."""
MAX_CONTAINERS: Final = 32_768
"""Arrays and maps in one header: what stops a bomb of empty maps."""

_SMALL: Final = 16 << 10
"""A header of this size cannot hold enough containers to hurt, so they are not counted."""
_TINY: Final = 1 << 10
"""A header of this size nests no deeper than its reader may recurse: its free-form fields are looked at afterwards."""
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Head(msgspec.Struct, array_like=True, frozen=True):
    version: int
    delivery: int
    seq: _Count
    epoch: _Count
    ack_session: _Count
    ack_durable: _Count


class _Envelope(_Head, frozen=True):
    message: messages.Message


class Packet(msgspec.Struct, frozen=True):
    """One decoded packet. `frames` are the raw ones, without frame 0."""

    version: int
    delivery: DeliveryClass
    seq: int
    """Of this message within its class; 0 where the class has none."""
    epoch: int
    """Of the lease under which the sender speaks; 0 before it has one."""
    ack_session: int
    """The sender has every session-class message up to here."""
    ack_durable: int
    """The sender has every durable message up to here on disk."""
    message: messages.Message
    frames: list[Buffer]
    size: int
    """Bytes of all frames, the header's too."""


_by_tag: Final[dict[str, type[Any]]] = {cls.__struct_config__.tag: cls for cls in messages.Message.__args__}
_nesting: Final = frozenset(cls for cls in _by_tag.values() if is_free_form(cls))
_tame: Any = functools.reduce(operator.or_, (cls for cls in _by_tag.values() if cls not in _nesting))
_typed: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(
    msgspec.defstruct("_Typed", [("message", _tame)], bases=(_Head,), frozen=True)
)
_free: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(_Envelope)
_encoder: Final = msgspec.msgpack.Encoder()
_outline: Final = msgspec.msgpack.Decoder(msgspec.Raw)
_delivery: Final = {cls: int(cls.delivery) for cls in _by_tag.values()}
_classes: Final = tuple(DeliveryClass)


# --- out ---------------------------------------------------------------------------------------------------


def encode(
    message: messages.Message,
    frames: Sequence[Buffer] = (),
    *,
    seq: int = 0,
    epoch: int = 0,
    ack_session: int = 0,
    ack_durable: int = 0,
    version: int = PROTOCOL_VERSION,
) -> list[Buffer]:
    """One packet. The raw frames go in as they are, flattened to bytes but not copied.

    Raises FrameTooLarge for a header over HEADER_LIMIT, CallerError for values that the wire cannot say; the
    packet's whole size is the link's to judge, as only it knows its limit.
    """
    kind = type(message)
    if kind in _nesting and not is_plain(message):
        check_message(message, CallerError)
    try:
        header = _encoder.encode((version, _delivery[kind], seq, epoch, ack_session, ack_durable, message))
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise CallerError(f"a {kind.__name__} cannot be put on the wire: {error}") from error
    if len(header) > HEADER_LIMIT:
        raise FrameTooLarge(len(header), HEADER_LIMIT, "header")
    if len(frames) >= MAX_FRAMES:
        raise CallerError(f"{len(frames)} raw frames in one packet, at most {MAX_FRAMES - 1} fit")
    return [header, *[frame if type(frame) is bytes else _flat(frame) for frame in frames]]


def pack(value: object) -> bytes:
    """A small record of ours as msgpack bytes, for `unpack`. Raises CallerError."""
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise CallerError(f"a {type(value).__name__} cannot be packed: {error}") from error


def chunk_limit(link_limit: int) -> int:
    """Largest chunk of a stream on a link with that packet limit."""
    return link_limit - HEADER_ROOM


# --- in ----------------------------------------------------------------------------------------------------


def decode(frames: Sequence[Buffer], limit: int) -> Packet:
    """The packet in these frames. Raises MalformedFrame, FrameTooLarge, UnknownMessage, VersionMismatch only."""
    if not 0 < len(frames) <= MAX_FRAMES:
        raise MalformedFrame(f"a packet has 1 to {MAX_FRAMES} frames, not {len(frames)}")
    size = 0
    for frame in frames:
        size += len(frame) if type(frame) is bytes else frame_size(frame)
    if size > limit:
        raise FrameTooLarge(size, limit)
    header = frames[0]
    if len(header) > HEADER_LIMIT:
        raise FrameTooLarge(len(header), HEADER_LIMIT, "header")
    head = _quick(header) or _envelope(header)
    message = head.message
    cls = type(message)
    if head.delivery != _delivery[cls]:
        raise MalformedFrame(f"a {cls.__name__} is not of delivery class {head.delivery}")
    return Packet(
        head.version,
        _classes[head.delivery],
        head.seq,
        head.epoch,
        head.ack_session,
        head.ack_durable,
        message,
        list(frames[1:]),
        size,
    )


def _quick(header: Buffer) -> _Envelope | None:
    """The same answer in a third of the time for a small header without free-form fields, or a tiny one with plain
    ones, which is all of the hot path.

    The outline comes first, so no length lies; the message's type bounds the rest. Anything odd is left to `_envelope`.
    """
    tiny = len(header) <= _TINY
    if len(header) > _SMALL:
        return None
    try:
        _outline.decode(header)
        head: _Envelope = (_free if tiny else _typed).decode(header)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    if tiny and type(head.message) in _nesting and not is_plain(head.message):
        return None
    return head if head.version in SUPPORTED_VERSIONS else None


def _envelope(header: Buffer) -> _Envelope:
    """Read a header the strict way, and name what is wrong with it."""
    parts = _unpackb(header, MAX_ITEMS, MAX_CONTAINERS)
    if type(parts) is not list or not parts or type(parts[0]) is not int:
        raise MalformedFrame("a header is an array that begins with the protocol version")
    if parts[0] not in SUPPORTED_VERSIONS:
        raise VersionMismatch(
            f"the peer speaks wire version {parts[0]}, we speak {PROTOCOL_VERSION}",
            hint="upgrade the older of the two",
        )
    cls = _known(parts)
    try:
        head = msgspec.convert(parts, _Envelope, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise MalformedFrame(f"not a valid {cls.__name__}: {error}") from error
    if cls in _nesting:
        check_message(head.message, MalformedFrame)
    return head


def unpack(data: Buffer, kind: type[T], *, limit: int = HEADER_LIMIT) -> T:
    """A record that `pack` made, read as strictly as a header. Raises MalformedFrame and FrameTooLarge only.

    A higher limit (snapshots) raises the counts of items and containers in proportion.
    """
    if frame_size(data) > limit:
        raise FrameTooLarge(frame_size(data), limit, "record")
    growth = max(1, limit // HEADER_LIMIT)
    value = _unpackb(data, MAX_ITEMS * growth, MAX_CONTAINERS * growth)
    check_value(value, MAX_DEPTH + 4, MalformedFrame)
    try:
        return msgspec.convert(value, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise MalformedFrame(f"not a valid {getattr(kind, '__name__', kind)}: {error}") from error


# --- inside ------------------------------------------------------------------------------------------------


def _known(parts: list[Any]) -> type[Any]:
    body = parts[6] if len(parts) > 6 else None
    tag = body.get("t") if type(body) is dict else None
    if type(tag) is not str:
        raise MalformedFrame("a header's seventh element is a map with the message's type under 't'")
    cls = _by_tag.get(tag)
    if cls is None:
        raise UnknownMessage(f"message type {tag[:64]!r} is unknown in wire version {PROTOCOL_VERSION}")
    return cls


def _unpackb(data: Buffer, items: int, containers: int) -> Any:
    hooks = {} if len(data) <= _SMALL else _counting(containers)
    try:
        _outline.decode(data)
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_array_len=items,
            max_map_len=items,
            max_ext_len=0,
            ext_hook=_no_extension,
            **hooks,
        )
    except (ValueError, TypeError, msgpack.UnpackException, msgspec.DecodeError, RecursionError) as error:
        raise MalformedFrame(f"not msgpack within our limits: {error or type(error).__name__}") from error


def _no_extension(code: int, _data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code} is not of this protocol")


def _counting(containers: int) -> dict[str, Any]:
    """Hooks for msgpack that stop it after so many arrays and maps, before they fill the memory."""
    left = containers

    def count(value: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"more than {containers} arrays and maps")
        return value

    return {"object_hook": count, "list_hook": count}


def _flat(frame: Buffer) -> Buffer:
    if type(frame) is memoryview:
        if not frame.c_contiguous:
            raise CallerError("a raw frame must be contiguous")
        if frame.ndim != 1 or frame.itemsize != 1:
            return frame.cast("B") if frame.nbytes else b""
    return frame
