"""The golden vectors: what other implementations of the wire can be checked against. A changed one is a new version."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from msrt.errors import MsrtError
from msrt.protocol import wire
from msrt.protocol.messages import Message

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())


def frames(entry: dict) -> list[bytes]:
    return [bytes.fromhex(text) for text in entry["packet"]]


def message(entry: dict) -> Message:
    return msgspec.convert(entry["message"], Message, str_keys=True)  # JSON has no other keys


@pytest.mark.parametrize("entry", GOLDEN["packets"], ids=lambda entry: entry["name"])
def test_a_message_becomes_its_golden_bytes_and_back(entry):
    """Both ways, byte for byte, header fields and raw frames included."""
    head = {name: entry[name] for name in ("seq", "epoch", "ack_session", "ack_durable")}
    assert wire.encode(message(entry), frames(entry)[1:], **head) == frames(entry)
    packet = wire.decode(frames(entry), wire.MQTT_LIMIT)
    assert packet.message == message(entry)
    assert {name: getattr(packet, name) for name in head} == head
    assert packet.frames == frames(entry)[1:]
    assert packet.delivery is packet.message.delivery
    assert packet.version == GOLDEN["protocol"] == wire.PROTOCOL_VERSION


def test_every_message_has_a_vector():
    """A new message type comes with its bytes."""
    assert {type(message(entry)) for entry in GOLDEN["packets"]} == set(Message.__args__)


@pytest.mark.parametrize("entry", GOLDEN["tolerated"], ids=lambda entry: entry["why"])
def test_what_a_newer_peer_may_say_is_understood(entry):
    """Additions within a version do not break an older reader."""
    assert wire.decode(frames(entry), wire.MQTT_LIMIT).message == message(entry)


@pytest.mark.parametrize("entry", GOLDEN["refused"], ids=lambda entry: entry["why"])
def test_what_is_wrong_gets_its_typed_error(entry):
    """The code says which rule was broken."""
    with pytest.raises(MsrtError) as raised:
        wire.decode(frames(entry), wire.MQTT_LIMIT)
    assert raised.value.code == entry["code"]


@pytest.mark.parametrize("entry", GOLDEN["packing"])
def test_frames_are_packed_for_mqtt(entry):
    """u8 count, u32 little-endian lengths, bytes; and back."""
    plain = [bytes.fromhex(frame) for frame in entry["frames"]]
    assert wire.pack_frames(plain).hex() == entry["packed"]
    assert wire.unpack_frames(bytes.fromhex(entry["packed"])) == plain


README = Path(wire.__file__).with_name("README.md")
ROW = re.compile(r"^\| `([a-z.]+)` \| (\w+) \| ([^|]+) \|", re.MULTILINE)


def test_the_specification_names_every_message_and_field():
    """The table in the README is the union in the code: types, classes, fields, and which may be left out."""
    written = {tag: (kind, fields.strip()) for tag, kind, fields in ROW.findall(README.read_text())}
    coded = {}
    for cls in Message.__args__:
        fields = [f.encode_name + ("" if f.required else "?") for f in msgspec.structs.fields(cls)]
        coded[cls.__struct_config__.tag] = (cls.delivery.name.lower(), ", ".join(fields))
    assert written == coded
