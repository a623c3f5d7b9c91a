"""`msrt device flash` and `image`: the whole way, on files."""

from __future__ import annotations

import json
import os
import pty
import shutil
import struct
import subprocess
import time

import pytest
from click.testing import CliRunner

from msrt.errors import CallerError, InvalidConfig, NotFound
from msrt.protocol.messages import Parent
from msrt.trust.identity import Identity
from msrt.trust.invite import Invite
from msrt_device.flash.build import build_image
from msrt_device.flash.command import flash as command
from msrt_device.flash.flashing import Plan, flash
from msrt_device.flash.identity.medium import read_identity
from msrt_device.flash.identity.place import need_place
from msrt_device.flash.identity.settings import IdentitySettings
from msrt_device.flash.kinds import UnknownImage, look
from msrt_device.flash.targets import MissingTools
from msrt_device.flash.writing.errors import MediumRefused
from msrt_device.flash.writing.image import Image
from msrt_device.flash.writing.machine import Machine
from msrt_device.flash.writing.medium import OpenMedium, describe
from msrt_device.flash.writing.sources import Frames
from tests.bench.tree import MSRT
from tests.device.flash.media import IDENTITY_AT, MIB, disk, noise, packed, tools, volume_file
from tests.device.updater.images import agent

PIECE = 128 << 10
CLOUD = Identity(b"1" * 32, b"2" * 32)


def parent():
    return Parent(node=CLOUD.node, zmq="tcp://127.0.0.1:1", link_key=bytes(32))


def invite(role="device", lives_s=3600.0):
    made = Invite.make(CLOUD, bytes, role=role, parents=[parent()], expires=time.time() + lives_s, region="north")
    return made.encode()


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    """Journals go where the test looks."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))


def told(*argv):
    """What the command says: its JSON lines, and its result."""
    done = CliRunner().invoke(command, [str(one) for one in argv])
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")], done


def on(path):
    with OpenMedium.open(describe(path, Machine())) as sink:
        return read_identity(sink, path.stat().st_size)


@tools
def test_an_image_and_its_identity_end_verified(tmp_path):
    """The JSON lines tell what was written and verified, the last one that it is."""
    base, out = packed(tmp_path, disk(tmp_path), ".zst"), tmp_path / "out.img"
    text = invite()
    (tmp_path / "claim").write_text(text + "\n")
    lines, done = told(
        base,
        out,
        "--invite",
        tmp_path / "claim",
        "--name",
        "oven-7",
        "--label",
        "site=a",
        "--wifi-ssid",
        "hall",
        "--json",
    )
    assert done.exit_code == 0, done.output
    assert lines[-1]["verified"] is True
    assert {line["stage"] for line in lines} == {"write", "verify", "done"}
    assert [line for line in lines if line["stage"] == "verify"][-1]["done"] == 9 * MIB
    found = on(out)
    assert (found.invite, found.name, found.region, found.labels, found.wifi.ssid) == (
        text, "oven-7", "north", {"site": "a"}, "hall",
    )  # fmt: skip


@tools
def test_an_identity_can_be_changed_where_the_base_is_already(tmp_path):
    """Nothing else of the medium changes but MSRTID."""
    out = tmp_path / "out.img"
    out.write_bytes(disk(tmp_path))
    before = out.read_bytes()
    lines, done = told(out, "--identity-only", "--invite", invite(), "--serial", "SN-9", "--yes", "--json")
    assert done.exit_code == 0, done.output
    assert lines[-1]["verified"] is True
    assert on(out).serial == "SN-9"
    assert out.read_bytes()[:IDENTITY_AT] == before[:IDENTITY_AT]


@tools
def test_who_is_asked_is_told_what_would_be_lost(tmp_path):
    """Of a medium that gets another identity only that."""
    out = tmp_path / "out.img"
    out.write_bytes(disk(tmp_path))
    said = str(told(out, "--identity-only", "--invite", invite())[1].exception)
    assert said.startswith(f"the identity that is on the file {out}")
    assert told(out, tmp_path / "other", "--invite", invite())[1].exit_code == 0
    again = str(told(out, tmp_path / "other", "--invite", invite())[1].exception)
    assert again.startswith("all that is on")


@pytest.mark.parametrize("flags", [["--region", "south"], ["--hours", "2"], ["--hours", "-1"]])
def test_what_only_a_batch_has_is_refused_for_one_board(tmp_path, flags):
    """Its region and its end are the invite's: another word would go nowhere."""
    base = packed(tmp_path, noise(2 * MIB), "")
    done = told(base, tmp_path / "out.img", "--invite", invite(), *flags)[1]
    assert done.exit_code == 2
    assert flags[0] in done.output
    assert not (tmp_path / "out.img").exists()


def test_a_person_is_asked_in_words_and_may_say_no(tmp_path):
    """On a terminal; nothing of the question is taken for something else, and nothing is written."""
    base, out = packed(tmp_path, noise(2 * MIB), ""), tmp_path / "out.img"
    out.write_bytes(b"precious")
    keyboard, screen = pty.openpty()
    argv = [MSRT, "device", "flash", str(base), str(out)]
    with subprocess.Popen(argv, stdin=screen, stdout=screen, stderr=screen) as asked:
        os.close(screen)
        said = b""
        while b"[y/N]" not in said:
            said += os.read(keyboard, 4096)  # fails when the process ends
        os.write(keyboard, b"n\n")
        assert asked.wait(20) == 130
    os.close(keyboard)
    assert b"will be lost. Go on?" in said
    assert out.read_bytes() == b"precious"


def test_without_an_invite_no_identity_is_written(tmp_path):
    """A setting that would go nowhere is refused."""
    base, out = packed(tmp_path, noise(3 * MIB), ""), tmp_path / "out.img"
    assert told(base, out)[1].exit_code == 0
    assert out.read_bytes() == base.read_bytes()
    assert "no identity is written" in told(base, out, "--name", "x")[1].output


@pytest.mark.parametrize(
    ("claim", "code"),
    [
        (lambda: invite(lives_s=-1.0), "invite_expired"),
        (lambda: invite(role="client"), "bad_request"),
        (lambda: invite()[:-4] + "AAAA", "invite_forged"),
        (lambda: "no-such-file", "bad_request"),
    ],
)
def test_a_bad_invite_is_refused_before_anything_is_written(tmp_path, claim, code):
    """Each by its own error."""
    base = packed(tmp_path, noise(2 * MIB), "")
    done = told(base, tmp_path / "out.img", "--invite", claim())[1]
    assert done.exception.code == code
    assert not (tmp_path / "out.img").exists()


def test_nothing_is_lost_without_a_word(tmp_path):
    """Where nobody can be asked, --yes has to be said; the image itself is never the target."""
    base, out = packed(tmp_path, noise(2 * MIB), ""), tmp_path / "out.img"
    out.write_bytes(b"precious")
    done = told(base, out)[1]
    assert isinstance(done.exception, CallerError)
    assert "--yes" in str(done.exception)
    assert out.read_bytes() == b"precious"
    with pytest.raises(MediumRefused, match="itself"):
        flash(base, base, None, Plan(confirm=lambda _: None), lambda *_: None)


@pytest.mark.parametrize("kind", [".zst", ".xz"])
@tools
def test_an_image_without_a_place_for_an_identity_is_refused_before_the_medium_is_touched(tmp_path, kind):
    """For one board and for a batch, which has no claims made for it; it says how to make a place."""
    base, out = packed(tmp_path, disk(tmp_path, second="DATA"), kind), tmp_path / "out.img"
    out.write_bytes(b"precious")
    done = told(base, out, "--invite", invite(), "--yes")[1]
    assert done.exception.code == "not_found"
    assert f"{base} has no FAT volume with the label MSRTID" in str(done.exception)
    assert "mkfs.vfat -n MSRTID" in str(done.exception)
    assert out.read_bytes() == b"precious"
    many = told(base, tmp_path / "boards", "--count", 2, "--csv", tmp_path / "m.csv", "--state", tmp_path / "none")[1]
    assert "has no FAT volume" in str(many.exception)


@pytest.mark.parametrize(("label", "kind"), [("gpt", ".xz"), ("dos", ".zst"), ("dos", "")])
@tools
def test_the_place_for_an_identity_is_found_in_any_image(tmp_path, label, kind):
    """Of another maker, with a partition table of either kind."""
    base = packed(tmp_path, disk(tmp_path, label), kind)
    need_place(Image.open(base))


@tools
def test_a_bare_volume_is_a_place_for_an_identity(tmp_path):
    """FAT of each kind, without a partition table."""
    for bits in (12, 16, 32):
        need_place(Image.open(volume_file(tmp_path / "volume", bits)))
        with pytest.raises(NotFound):
            need_place(Image.open(volume_file(tmp_path / "volume", bits, "OTHER")))


@tools
def test_a_look_that_would_unpack_too_much_says_nothing(tmp_path, monkeypatch):
    """Of a stream: a file that can be read anywhere is looked through."""
    monkeypatch.setattr("msrt_device.flash.identity.place.FAR", 2 * MIB)
    data = disk(tmp_path, second="DATA")
    need_place(Image.open(packed(tmp_path, data, ".xz")))
    with pytest.raises(NotFound):
        need_place(Image.open(packed(tmp_path, data, "")))


class Board:
    """A target that writes two pieces with a hole between."""

    name, title, verified = "board", "A board", "Never tried."

    def __init__(self):
        self.options, self.missing = {"size": "of it"}, []

    def needs(self):
        return self.missing

    def build(self, options, out, progress):
        data = noise(PIECE, seed=int(options.get("size", 0)))
        with out.open("wb") as file:
            file.write(data)
            file.truncate(3 * MIB)
            file.seek(3 * MIB)
            file.write(data)
        progress("build", 1, 1)


@pytest.mark.parametrize("suffix", ["", ".zst", ".xz"])
def test_what_image_makes_flash_writes(tmp_path, suffix):
    """Packed as its name says, with a block map: only what is mapped is written."""
    out, medium = tmp_path / f"base.img{suffix}", tmp_path / "medium"
    built = build_image(Board(), {}, out, lambda *_: None)
    assert (built.image_size, built.mapped) == (3 * MIB + PIECE, 2 * PIECE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, f"{out.name}.bmap"]
    done = flash(out, medium, None, Plan(confirm=lambda _: None), lambda *_: None)
    assert done.wrote == 2 * PIECE
    assert medium.read_bytes() == noise(PIECE) + bytes(3 * MIB - PIECE) + noise(PIECE)


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs zstd")
def test_what_is_packed_by_frames_is_plain_zstd(tmp_path):
    """The zstd tool, and any other reader, unpacks it."""
    out = tmp_path / "base.img.zst"
    build_image(Board(), {}, out, lambda *_: None)
    done = subprocess.run(["zstd", "-dc", str(out)], capture_output=True, check=True)
    assert done.stdout == noise(PIECE) + bytes(3 * MIB - PIECE) + noise(PIECE)
    assert isinstance(Image.open(out).source(), Frames)


def put(data, at, text):
    data[at : at + len(text)] = text
    return bytes(data)


NO_IMAGE = {
    "three bytes": (lambda: b"abc", "has 3 bytes"),
    "noise": (lambda: put(bytearray(noise(PIECE)), 510, b"\0\0"), "no partition table"),
    "an empty table": (lambda: put(bytearray(noise(PIECE)), 446, bytes(64)), "no partition table"),
    "cut off": (lambda: noise(2 * PIECE)[:PIECE], "its partition 1 ends at byte 262144"),
    "zeros": (lambda: bytes(PIECE), "no partition table"),
    "a package": (lambda: b"!<arch>\n" + bytes(8192), "ssh://USER@HOST"),
    "an agent's image": (lambda: agent("2")[1], "msrt update push"),
    "half a GPT": (lambda: put(bytearray(noise(PIECE)), 512, b"EFI PART"), "GPT"),
}


@pytest.mark.parametrize(
    ("what", "kind"),
    # An xz file does not say how long it is.
    [(what, kind) for what in NO_IMAGE for kind in ("", ".zst", ".xz") if (what, kind) != ("cut off", ".xz")],
)
def test_what_is_no_image_is_refused_before_anything_is_written(tmp_path, what, kind):
    """Packed or not, by a sentence that says what it lacks; in words it is written all the same."""
    data, said = NO_IMAGE[what]
    base, out = packed(tmp_path, data(), kind), tmp_path / "out.img"
    out.write_bytes(b"precious")
    done = told(base, out, "--yes")[1]
    assert done.exception.code == "unknown_image"
    assert said in str(done.exception)
    assert out.read_bytes() == b"precious"
    assert told(base, out, "--yes", "--force-unknown-image")[1].exit_code == 0
    assert out.read_bytes()[: len(data())] == data()


FIRMWARE = {
    "an ELF program": b"\x7fELF" + noise(8192), "a LittleFS": noise(8192)[:8] + b"littlefs" + noise(8192),
    "a UF2": struct.pack("<2I", 0x0A324655, 0x9E5D5157) + noise(8192),
}  # fmt: skip


@pytest.mark.parametrize("what", FIRMWARE)
def test_a_firmware_goes_into_a_file_and_onto_no_disk(tmp_path, what):
    """No board would look for it there; and it takes no identity, which its gateway has."""
    base = packed(tmp_path, FIRMWARE[what], "")
    assert "msrt device gateway" in str(told(base, tmp_path / "out.img", "--invite", invite())[1].exception)
    assert not (tmp_path / "out.img").exists()
    assert told(base, tmp_path / "out.img")[1].exit_code == 0
    with pytest.raises(UnknownImage, match=f"is {what}, which no board looks for on a disk"):
        look(Image.open(base), on_disk=True)


def test_a_target_says_what_it_lacks_and_takes_no_unknown_option(tmp_path):
    """Before it builds."""
    board = Board()
    with pytest.raises(InvalidConfig, match="'size'"):
        build_image(board, {"siez": "1"}, tmp_path / "x", lambda *_: None)
    with pytest.raises(InvalidConfig, match="nothing is packed as"):
        build_image(board, {}, tmp_path / "x.img.gz", lambda *_: None)
    board.missing = ["sfdisk: apt-get install fdisk"]
    with pytest.raises(MissingTools, match="apt-get install fdisk"):
        build_image(board, {}, tmp_path / "x", lambda *_: None)


def test_settings_of_a_file_are_changed_by_flags(tmp_path):
    """One identity file, one flag over it."""
    base, out, identity = packed(tmp_path, noise(2 * MIB), ""), tmp_path / "out.img", tmp_path / "id.toml"
    identity.write_text(IdentitySettings(name="a", labels={"x": "1"}).render())
    done = told(base, out, "--identity", identity, "--locale", "; reboot")[1]
    assert "locale" in str(done.exception)
    assert not out.exists()


def test_a_time_zone_that_does_not_exist_is_refused_here(tmp_path):
    """By a flag or in a file: a board could only say so in its own log."""
    base, identity = packed(tmp_path, noise(2 * MIB), ""), tmp_path / "id.toml"
    identity.write_text(IdentitySettings(timezone="Europe/Berlinn").render())
    for flags in (["--identity", identity], ["--invite", invite(), "--timezone", "Europe/Berlinn"]):
        done = told(base, tmp_path / "out.img", *flags)[1]
        assert "'Europe/Berlinn'; did you mean 'Europe/Berlin'?" in str(done.exception)
    assert not (tmp_path / "out.img").exists()


def test_only_a_terminal_is_a_board_on_a_serial_line(tmp_path):
    """/dev/null is neither a disk nor a board; and no board takes an image that is larger than its flash."""
    base = packed(tmp_path, noise(2 * MIB), "")
    assert str(told(base, "/dev/null", "--yes")[1].exception).startswith("/dev/null is neither a file nor a disk")
    with base.open("r+b") as file:
        file.truncate(65 * MIB)
    board, line = pty.openpty()
    try:
        assert "more than a board on a serial line holds" in str(told(base, os.ttyname(line))[1].exception)
    finally:
        os.close(board)
        os.close(line)
