"""Images for MicroPython boards: a file system that LittleFS reads back, behind a firmware or alone."""

from __future__ import annotations

import json
import struct

import pytest
from littlefs import LittleFS

from msrt.errors import InvalidConfig
from msrt_device.flash.targets.micropython import BLOCK, SOURCES, TARGET, InvalidFirmware, little_fs

FAMILY = 0xE48BFF56


def built(tmp_path, **options):
    TARGET.build(options, tmp_path / "image", lambda *_: None)
    return (tmp_path / "image").read_bytes()


def files(data):
    """What LittleFS finds on it."""
    volume = LittleFS(block_size=BLOCK, block_count=len(data) // BLOCK, mount=False)
    volume.context.buffer = bytearray(data)
    volume.mount()
    found = {}
    for name in volume.listdir("/"):
        with volume.open(name, "rb") as file:
            found[name] = file.read()
    return found


def esp(begins=0x1000, at=0x20_0000, size=0x10_0000, label=b"vfs"):
    """A firmware with nothing in it but a partition table."""
    table = b"".join(
        struct.pack("<HBBII16sI", 0x50AA, kind, sub, offset, length, name, 0)
        for kind, sub, offset, length, name in ((1, 2, 0x9000, 0x6000, b"nvs"), (1, 0x81, at, size, label))
    )
    return bytes(0x8000 - begins) + table.ljust(0xC00, b"\xff") + b"code" * 1000


def uf2(blocks=3, family=FAMILY, address=0x1000_0000):
    return b"".join(
        struct.pack("<8I476sI", 0x0A324655, 0x9E5D5157, 0x2000, address + 256 * at, 256, at, blocks, family,
                    bytes([at + 1]) * 256, 0x0AB16F30)
        for at in range(blocks)
    )  # fmt: skip


def test_a_file_system_alone_holds_the_agent(tmp_path):
    """Every source, and settings that name no board."""
    found = files(built(tmp_path, size="0x40000", link="uart:1@115200", adc="26"))
    assert found.keys() == {path.name for path in SOURCES.glob("*.py")} | {"board.json"}
    assert found["main.py"] == (SOURCES / "main.py").read_bytes()
    assert json.loads(found["board.json"]) == {"link": "uart:1@115200", "sensor": {"adc": 26}}


def test_an_identity_makes_it_one_boards(tmp_path):
    """Serial number and Wi-Fi; a claim is its gateway's."""
    path = tmp_path / "identity.toml"
    path.write_text('serial = "b-7"\n[wifi]\nssid = "shop"\npassword = "long enough"\n')
    found = json.loads(files(built(tmp_path, size="0x40000", link="tcp:7000", identity=str(path)))["board.json"])
    assert found == {"link": "tcp:7000", "serial": "b-7", "wifi": {"ssid": "shop", "password": "long enough"}}
    with pytest.raises(InvalidConfig, match="needs a network"):
        built(tmp_path, link="tcp:7000")


@pytest.mark.parametrize("begins", [0x0, 0x1000, 0x2000])
def test_behind_an_esp32_firmware_it_lies_in_its_partition(tmp_path, begins):
    """At its offset in flash, wherever the file of that chip begins."""
    firmware = tmp_path / "firmware.bin"
    firmware.write_bytes(esp(begins))
    data = built(tmp_path, firmware=str(firmware))
    assert data.startswith(firmware.read_bytes())
    assert len(data) == 0x30_0000 - begins
    assert "main.py" in files(data[0x20_0000 - begins :])


def test_behind_an_rp2_firmware_it_is_more_blocks(tmp_path):
    """Numbered through; blocks of another family stay as they are; erased sectors are left out."""
    firmware = tmp_path / "firmware.uf2"
    firmware.write_bytes(uf2(1, family=7, address=0x10FF_FF00) + uf2())
    data = built(tmp_path, firmware=str(firmware))
    blocks = [struct.unpack_from("<8I476sI", data, at) for at in range(0, len(data), 512)]
    own = [block for block in blocks if block[7] == FAMILY]
    assert [block[5] for block in own] == list(range(len(own)))
    assert {block[6] for block in own} == {len(own)}
    assert data[:512] == firmware.read_bytes()[:512]
    flash = bytearray(b"\xff" * (1408 << 10))
    for block in own[3:]:
        at = block[3] - 0x1000_0000 - 0xA0000
        flash[at : at + 256] = block[8][:256]
    assert "main.py" in files(bytes(flash))
    assert len(own) < 300


@pytest.mark.parametrize(
    ("firmware", "options", "why"),
    [
        (b"garbage" * 9999, {}, "no partition table"),
        (esp(label=b"other"), {}, "no partition table"),
        (esp(at=0x9000), {}, "would lie in the firmware"),
        (uf2()[:-4] + b"oops", {}, "damaged"),
        (uf2(), {"at": "0"}, "would lie in the firmware"),
    ],
)
def test_a_firmware_that_cannot_be_is_refused(tmp_path, firmware, options, why):
    """With what is wrong."""
    path = tmp_path / "firmware"
    path.write_bytes(firmware)
    with pytest.raises(InvalidFirmware, match=why):
        built(tmp_path, firmware=str(path), **options)


@pytest.mark.parametrize("link", ["wire", "uart", "uart:x", "tcp:", "usb:1"])
def test_a_link_that_no_board_would_open_is_refused(tmp_path, link):
    """Here, not by a board that is silent."""
    with pytest.raises(InvalidConfig, match="it is usb, uart:NUMBER@BAUD or tcp:PORT"):
        built(tmp_path, link=link)


def test_a_size_that_cannot_be_is_refused():
    """Not whole blocks, or too small for what goes in."""
    for size in (5000, 1 << 30, 2 * BLOCK):
        with pytest.raises(InvalidConfig):
            little_fs({"a": bytes(9000)}, size)
