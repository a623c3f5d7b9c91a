"""`msrt device flash` to a serial line: a pty, behind which is the official MicroPython in WebAssembly with its own
REPL; and esptool's side of a chip that does not answer."""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
import subprocess
import threading
import tty

import pytest
from click.testing import CliRunner
from littlefs import LittleFS
from mpremote.transport import TransportExecError
from mpremote.transport_serial import SerialTransport

from msrt.errors import CallerError
from msrt_device.flash.command import flash
from msrt_device.flash.identity.settings import IdentitySettings, Wifi
from msrt_device.flash.serial.files import BoardFailed, put_files
from msrt_device.flash.serial.image import board_settings, open_image, with_identity
from msrt_device.flash.targets.micropython import BLOCK, SOURCES, TARGET
from msrt_device.flash.writing.errors import BadImage
from tests.device.flash.test_micropython import esp, uf2
from tests.device.micropython.wasm import command


class Line:
    """A pty; `board` is the process whose standard input and output it is, None: nobody answers."""

    def __init__(self, board=None):
        self._own, other = os.openpty()
        tty.setraw(other)
        self._other, self.path, self._board = other, os.ttyname(other), board
        self.drop = b""
        """Bytes that get lost on their way to the board."""
        self._end, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def _carry(self):
        out = self._board.stdout.fileno() if self._board else None
        while True:
            ready, _, _ = select.select([self._own, self._end, *([out] if out is not None else [])], [], [], 10)
            if self._end in ready:
                return
            if self._own in ready:
                data = os.read(self._own, 4096)
                if self._board:
                    self._board.stdin.write(data.replace(self.drop, b"") if self.drop else data)
                    self._board.stdin.flush()
            if out in ready:
                os.write(self._own, os.read(out, 4096))

    def close(self):
        os.write(self._stop, b"x")
        self._thread.join(15)
        for fd in (self._own, self._other, self._end, self._stop):
            os.close(fd)


def read(board, name):
    """A file, by the board's own words."""
    with contextlib.closing(SerialTransport(board.path, timeout=5)) as line:
        line.enter_raw_repl()
        try:
            return bytes(line.fs_readfile(name))
        finally:
            line.exit_raw_repl()


@pytest.fixture(scope="module")
def board():
    """A MicroPython, its REPL on a line."""
    process = subprocess.Popen(command("repl"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    line = Line(process)
    yield line
    line.close()
    process.kill()
    process.communicate()


@pytest.fixture
def nobody():
    line = Line()
    yield line
    line.close()


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The agent's files in a file system."""
    out = tmp_path_factory.mktemp("image") / "board.img"
    TARGET.build({"size": "0x40000", "link": "uart:1@115200"}, out, lambda *_: None)
    return out


def told(*argv):
    done = CliRunner().invoke(flash, [str(one) for one in argv])
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")], done


@pytest.mark.slow
def test_the_agents_files_and_an_identity_go_onto_a_board(board, image):
    """Read back from the board by its own words: the sources, and who it is."""
    lines, done = told(
        image, board.path, "--serial", "b-7", "--wifi-ssid", "shop", "--wifi-password", "long enough", "--json"
    )
    assert done.exit_code == 0, done.output
    assert lines[-1]["verified"] is True
    assert {line["stage"] for line in lines} == {"write", "verify", "done"}
    found = {name: read(board, name) for name in (*(path.name for path in SOURCES.glob("*.py")), "board.json")}
    assert found["main.py"] == (SOURCES / "main.py").read_bytes()
    assert found["msrt_engine.py"] == (SOURCES / "msrt_engine.py").read_bytes()
    assert json.loads(found["board.json"]) == {
        "link": "uart:1@115200", "serial": "b-7", "wifi": {"ssid": "shop", "password": "long enough"},
    }  # fmt: skip


@pytest.mark.slow
def test_a_file_that_the_board_did_not_take_is_an_error(board):
    """And what would start the agent is not left there."""
    board.drop = b"#lost"
    try:
        with pytest.raises(BoardFailed, match=r"main\.py does not read back"):
            put_files(board.path, {"lib.py": b"x = 1\n", "main.py": b"import lib #lost\n"}, lambda *_: None)
    finally:
        board.drop = b""
    with pytest.raises(TransportExecError):
        read(board, "main.py")
    assert read(board, "lib.py") == b"x = 1\n"


@pytest.mark.slow
def test_a_line_without_a_board_is_an_error_that_says_so(nobody, image, monkeypatch):
    """For files and for a chip: esptool itself tries, and gives up."""
    with pytest.raises(BoardFailed, match="does not do as it is told"):
        put_files(nobody.path, {"main.py": b""}, lambda *_: None)
    monkeypatch.setattr("msrt_device.flash.serial.chip.ATTEMPTS", 1)
    firmware = image.with_name("firmware.bin")
    firmware.write_bytes(esp(at=0x10000, size=0x40000))
    whole = image.with_name("whole.bin")
    TARGET.build({"firmware": str(firmware)}, whole, lambda *_: None)
    lines, done = told(whole, nobody.path, "--json")
    assert isinstance(done.exception, BoardFailed)
    assert "Failed to connect" in str(done.exception) or "No serial data" in str(done.exception)
    assert not any(line.get("verified") for line in lines)


def test_an_identity_goes_into_the_file_system_of_a_whole_flash(tmp_path):
    """At its place; the firmware before it stays, byte for byte."""
    firmware = tmp_path / "firmware.bin"
    firmware.write_bytes(esp(at=0x10000, size=0x40000))
    TARGET.build({"firmware": str(firmware)}, tmp_path / "whole.bin", lambda *_: None)
    image = open_image((tmp_path / "whole.bin").read_bytes())
    made = with_identity(image, IdentitySettings(serial="b-7"))
    assert (image.begins, image.vfs_at, len(made.flash)) == (0x1000, 0xF000, len(image.flash))
    assert made.flash[:0xF000] == image.flash[:0xF000]
    volume = LittleFS(block_size=BLOCK, block_count=0x40000 // BLOCK, mount=False)
    volume.context.buffer = bytearray(made.flash[0xF000:])
    volume.mount()
    with volume.open("board.json", "rb") as file:
        assert json.loads(file.read())["serial"] == "b-7"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (uf2(), "BOOTSEL"),
        (b"\x7fELF" + bytes(100), "debug probe"),
        (b"garbage" * 9999, "msrt device image micropython"),
        (esp(at=0x10000, size=0x40000) + bytes(0x80000), "msrt device image"),
        (struct.pack("<8s8s", b"", b"littlefs") + bytes(9000), None),
    ],
)
def test_what_cannot_go_over_a_serial_line_is_refused(data, why):
    """With what to do with it instead."""
    with pytest.raises(BadImage) as error:
        open_image(data)
    assert why is None or why in error.value.hint


@pytest.mark.parametrize(
    ("board", "why"),
    [
        (IdentitySettings(invite="msrt1-x"), "no claim"),
        (IdentitySettings(name="d1"), "name"),
        (IdentitySettings(timezone="Europe/Berlin"), "timezone"),
        (IdentitySettings(wifi=Wifi(ssid="a", country="DE")), "wifi.country"),
        (IdentitySettings(labels={"site": "a"}), "labels.site"),
    ],
)
def test_a_setting_that_a_microcontroller_would_not_take_is_refused(board, why):
    """By its name; a flag that did nothing would look as if it had."""
    with pytest.raises(CallerError, match=why):
        board_settings(board)
