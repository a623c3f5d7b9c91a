"""An image of Raspberry Pi OS made a device's: built, flashed with an identity, and read back by other tools."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from msrt.artifacts.images import Kind
from msrt.errors import InvalidConfig
from msrt_device.flash.build import build_image
from msrt_device.flash.flashing import Plan, flash, give_identity
from msrt_device.flash.identity.medium import SettingNotTaken
from msrt_device.flash.identity.settings import IdentitySettings, Wifi
from msrt_device.flash.raspberrypi import boot
from msrt_device.flash.raspberrypi.ext4 import Ext4
from msrt_device.flash.raspberrypi.given import NotRaspberryPiOs
from msrt_device.flash.targets import load_target
from msrt_device.updater import autoboot
from msrt_device.updater.tryboot import TrybootSlots
from tests.device.flash.raspberrypi.given import MIB, package, raspberry_pi_os, run, tools
from tests.device.updater.images import described, reader

pytestmark = [tools, pytest.mark.slow]
BOARD = IdentitySettings(
    name="oven-7", locale="de_DE.UTF-8", timezone="Europe/Berlin",
    wifi=Wifi(ssid="hall 1", password="long enough", country="DE"),
)  # fmt: skip


def quiet(*_):
    pass


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))


def built(folder, release="trixie", **options):
    """The image, and what of it lies where: bytes by partition name."""
    base = raspberry_pi_os(folder, release)
    options = {
        "base": base,
        "agent": package(folder, {"bookworm": "3.11", "trixie": "3.13"}[release]),
        "slot": 20,
    } | options
    out = folder / "base-image.img"
    build_image(load_target("raspberrypi"), {key: str(value) for key, value in options.items()}, out, quiet)
    return out


def places(image):
    table = json.loads(run("sfdisk", "--json", image))["partitiontable"]
    assert table["label"] == "gpt"
    return {
        one["name"]: (number, one["start"] * 512, one["size"] * 512)
        for number, one in enumerate(table["partitions"], 1)
    }


def cut(image, name, out):
    _, start, size = places(image)[name]
    with image.open("rb") as file:
        file.seek(start)
        out.write_bytes(file.read(size))
    return out


def on_fat(image, name, file):
    """What mtools reads, None where there is no such file."""
    start = places(image)[name][1]
    done = subprocess.run(["mtype", "-i", f"{image}@@{start}", f"::{file}"], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


@pytest.fixture(scope="module")
def trixie(tmp_path_factory):
    return built(tmp_path_factory.mktemp("trixie"))


def test_the_image_has_two_slots_and_a_place_for_an_identity(trixie, tmp_path):
    """Boot partitions at the numbers that autoboot.txt names; both file systems of slot a are clean."""
    found = places(trixie)
    assert list(found) == ["autoboot", "boot-a", "boot-b", "msrtid", "root-a", "root-b", "data"]
    assert (found["boot-a"][0], found["boot-b"][0]) == (2, 3)
    assert found["root-a"][2] == found["root-b"][2] == 20 * MIB
    assert (
        on_fat(trixie, "autoboot", "autoboot.txt")
        == b"[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n"
    )
    assert on_fat(trixie, "autoboot", "config.txt") == b""
    run("fsck.vfat", "-n", cut(trixie, "boot-a", tmp_path / "boot"))
    run("e2fsck", "-f", "-n", cut(trixie, "root-a", tmp_path / "root"))
    assert "root=PARTLABEL=root-a" in on_fat(trixie, "boot-a", "cmdline.txt").decode()
    assert on_fat(trixie, "boot-a", "kernel8.img") == b"K" * 300_000
    assert on_fat(trixie, "boot-a", "overlays/README") == b"x"
    assert run("dpkg-deb", "--field", _file(trixie, tmp_path), "Package").strip() == b"msrt-device"


def _file(image, folder):
    out = folder / "found.deb"
    out.write_bytes(on_fat(image, "boot-a", "msrt-device.deb"))
    return out


def test_the_root_mounts_what_either_slot_needs(trixie, tmp_path):
    """Nothing in it names a slot or a disk; the agent's user has a number that was free; modes stay."""
    root = Ext4(cut(trixie, "root-a", tmp_path / "root"))
    fstab = root.text("/etc/fstab")
    assert "PARTUUID" not in fstab
    assert "root-" not in fstab
    assert "uid=979,gid=979" in fstab
    assert "msrt:x:979:979::" in root.text("/etc/passwd")
    assert "pi:x:1000:" in root.text("/etc/passwd")
    assert "Mode:  0640" in run("debugfs", "-R", "stat /etc/shadow", root.image).decode()
    assert "Mode:  0755" in run("debugfs", "-R", "stat /usr/lib/msrt/trial", root.image).decode()
    assert root.has("/etc/systemd/system/multi-user.target.wants/msrt-reboot.path")
    assert root.read("/var/log/big") == bytes(range(256)) * 4096


def test_an_identity_becomes_what_the_release_reads(trixie, tmp_path):
    """In cloud-init's files, on MSRTID, on the kernel's command line; another identity takes its place."""
    out = tmp_path / "card.img"
    flash(trixie, out, BOARD, Plan(confirm=quiet), quiet)
    said = json.loads(on_fat(out, "boot-a", "user-data").partition(b"\n")[2])
    assert (said["hostname"], said["timezone"]) == ("oven-7", "Europe/Berlin")
    assert "hall 1" in on_fat(out, "boot-a", "network-config").decode()
    assert "regdom=DE" in on_fat(out, "boot-a", "cmdline.txt").decode()
    assert b"oven-7" in on_fat(out, "msrtid", "identity.toml")
    assert on_fat(out, "boot-a", "firstrun.sh") is None
    give_identity(out, IdentitySettings(name="oven-8"), Plan(confirm=quiet))
    assert "hall 1" not in on_fat(out, "boot-a", "network-config").decode()
    assert "oven-8" in on_fat(out, "boot-a", "user-data").decode()


def test_bookworm_gets_firstrun_and_no_file_that_it_would_ignore(tmp_path):
    """The other way round, settings are lost without a word (rpi-imager#1385)."""
    out = built(tmp_path, "bookworm", update="")
    give_identity(out, BOARD, Plan(confirm=quiet))
    script = on_fat(out, "boot-a", "firstrun.sh").decode()
    assert "set_wlan --plain 'hall 1' 'long enough' DE" in script
    assert subprocess.run(["sh", "-n"], input=script.encode(), check=False).returncode == 0
    assert "systemd.run=/boot/firmware/firstrun.sh" in on_fat(out, "boot-a", "cmdline.txt").decode()
    assert on_fat(out, "boot-a", "user-data") is None


@pytest.mark.parametrize("name", ["user-data", "network-config", "meta-data", "cmdline.txt"])
def test_a_setting_that_did_not_take_is_an_error(trixie, tmp_path, monkeypatch, name):
    """A medium that forgets one file of them: the flash fails, and names it."""
    out = tmp_path / "card.img"
    shutil.copyfile(trixie, out)
    write = boot.FatVolume.write
    monkeypatch.setattr(
        boot.FatVolume, "write", lambda self, file, data: None if file == name else write(self, file, data)
    )
    with pytest.raises(SettingNotTaken, match=name):
        give_identity(out, BOARD, Plan(confirm=quiet))


def test_the_last_partition_grows_with_the_medium(trixie, tmp_path):
    """By the program that the board runs; the copy of the table moves to the end."""
    card = tmp_path / "card.img"
    shutil.copyfile(trixie, card)
    with card.open("r+b") as file:
        file.truncate(card.stat().st_size + 32 * MIB)
    grow = tmp_path / "grow"
    grow.write_bytes(Ext4(cut(trixie, "root-a", tmp_path / "root")).read("/usr/lib/msrt/grow"))
    run("sh", grow, card, 7)
    assert places(card)["data"][2] > 95 * MIB
    assert places(card)["root-b"] == places(trixie)["root-b"]


@pytest.mark.parametrize(
    ("release", "options", "why"),
    [
        ("trixie", {"machine": b"\x28\x00"}, "64-bit"),
        ("trixie", {"without": ["usr/bin/cloud-init"]}, "neither cloud-init"),
        ("trixie", {"without": ["etc/rpi-issue"]}, "not Raspberry Pi OS"),
        ("bookworm", {"without": ["usr/bin/python3.11"]}, "no Python"),
    ],
)
def test_an_image_that_cannot_be_made_a_device_is_refused(tmp_path, release, options, why):
    """In words, before anything is made."""
    base = raspberry_pi_os(tmp_path, release, **options)
    with pytest.raises(NotRaspberryPiOs, match=why):
        load_target("raspberrypi").build({"base": str(base), "agent": str(package(tmp_path))}, tmp_path / "out", quiet)


def test_options_that_cannot_work_are_refused(tmp_path):
    """No image, an agent for another machine, keys that are none, a slot that is too small."""
    target, base = load_target("raspberrypi"), str(raspberry_pi_os(tmp_path))
    private = tmp_path / "id"
    private.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    for options, why in (
        ({}, "no image"),
        ({"base": base, "agent": str(package(tmp_path, "3.11"))}, "3.13"),
        ({"base": base, "agent": str(package(tmp_path, architecture="amd64"))}, "arm64"),
        ({"base": base, "ssh": str(private)}, "no public keys"),
        ({"base": base, "slot": "3"}, "slot = 3"),
    ):
        with pytest.raises(InvalidConfig, match=why):
            target.build(options, tmp_path / "out", quiet)


def test_bookworm_is_not_sent_over_the_air(tmp_path):
    """Its first boot restarts, which would end the trial."""
    with pytest.raises(InvalidConfig, match="ends the trial"):
        built(tmp_path, "bookworm", update=tmp_path / "update.tar")


def test_the_system_for_over_the_air_becomes_the_other_slots(tmp_path):
    """What the target packs is what the board's slots take: both file systems clean, its settings the board's."""
    update = tmp_path / "update.tar"
    image = built(tmp_path, update=update)
    for name in ("autoboot", "identity"):
        (tmp_path / name).mkdir()
    (tmp_path / "autoboot/autoboot.txt").write_text(autoboot.render("a"))
    (tmp_path / "identity/identity.toml").write_text(BOARD.render())
    parts = tmp_path / "parts"
    parts.mkdir()
    for name in ("boot-b", "root-b"):
        cut(image, name, parts / name)
    slots = TrybootSlots("a", tmp_path / "autoboot", parts, tmp_path / "run/reboot", tmp_path / "identity")
    data = update.read_bytes()
    slots.write(described(data, "2", Kind.SYSTEM), reader(data))
    slots.arm(1, 60.0)
    assert slots.state().held["b"].version == "2"
    run("fsck.vfat", "-n", parts / "boot-b")
    run("e2fsck", "-f", "-n", parts / "root-b")
    said = {name: run("mtype", "-i", parts / "boot-b", f"::{name}").decode() for name in ("cmdline.txt", "user-data")}
    assert "root=PARTLABEL=root-b" in said["cmdline.txt"]
    assert "Europe/Berlin" in said["user-data"]
    assert b"msrt-device" in run("dpkg-deb", "--field", _deb(parts / "boot-b", tmp_path))


def _deb(fat, folder):
    out = folder / "updated.deb"
    out.write_bytes(run("mtype", "-i", fat, "::msrt-device.deb"))
    return out
