"""A board's settings as files that its release reads."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt_device.flash.identity.settings import IdentitySettings, Wifi
from msrt_device.flash.raspberrypi.seeds import Seed, command_line, render
from tests.device.flash.raspberrypi.given import CMDLINE

BOARD = IdentitySettings(
    name="oven-7", locale="de_DE.UTF-8", timezone="Europe/Berlin",
    wifi=Wifi(ssid='a "b" \\ ü:', password="it's $HOME #9", country="DE"),
)  # fmt: skip
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFakeButWellFormedKeyMaterialForATest0000 me@desk"
TRIXIE, BOOKWORM = Seed(first_boot="cloud-init"), Seed(first_boot="firstrun")


def user_data(board, seed=TRIXIE):
    text = render(board, seed)["user-data"].decode()
    head, _, rest = text.partition("\n")
    assert head == "#cloud-config"
    return json.loads(rest)


def test_cloud_init_is_told_every_setting():
    """Host name, locale, time zone, Wi-Fi and its country; that SSH is off; and where the agent is."""
    said, network = user_data(BOARD), json.loads(render(BOARD, TRIXIE)["network-config"])["network"]
    assert (said["hostname"], said["locale"], said["timezone"]) == ("oven-7", "de_DE.UTF-8", "Europe/Berlin")
    assert said["ssh_pwauth"] is False
    assert said["runcmd"][0] == ["systemctl", "disable", "--now", "ssh.service"]
    assert "dpkg --install /boot/firmware/msrt-device.deb" in said["runcmd"][1][2]
    wlan = network["wifis"]["wlan0"]
    assert wlan["access-points"] == {BOARD.wifi.ssid: {"password": BOARD.wifi.password}}
    assert wlan["regulatory-domain"] == "DE"
    assert "wifis" not in json.loads(render(IdentitySettings(), TRIXIE)["network-config"])["network"]


def test_firstrun_is_told_every_setting():
    """Each is one call, whose words are those that were set, whatever a shell would make of them."""
    lines = render(BOARD, BOOKWORM)["firstrun.sh"].decode().splitlines()
    calls = [shlex.split(line)[1:] for line in lines if line.startswith("/usr/lib/raspberrypi-sys-mods/imager_custom")]
    assert calls == [
        ["set_hostname", "oven-7"], ["set_timezone", "Europe/Berlin"],
        ["set_wlan", "--plain", 'a "b" \\\\ ü:', "it's $HOME #9", "DE"],
    ]  # fmt: skip
    assert {"systemctl disable ssh", "raspi-config nonint do_change_locale de_DE.UTF-8"} <= set(lines)
    assert "dpkg --install /boot/firmware/msrt-device.deb" in lines


def test_ssh_is_on_for_the_keys_that_were_given():
    """For keys, never for a password."""
    said = user_data(BOARD, Seed(first_boot="cloud-init", ssh_keys=(KEY,)))
    assert said["users"][0]["ssh_authorized_keys"] == [KEY]
    assert said["users"][0]["lock_passwd"] is True
    assert said["runcmd"][0] == ["systemctl", "enable", "--now", "ssh.service"]
    script = render(BOARD, Seed(first_boot="firstrun", ssh_keys=(KEY,)))["firstrun.sh"].decode()
    assert f"enable_ssh -k '{KEY}'" in script


def test_another_identity_is_another_instance():
    """cloud-init runs again on a card that was used; the same settings are the same instance."""
    first, again = render(BOARD, TRIXIE), render(BOARD, TRIXIE)
    assert first == again
    assert first["meta-data"] != render(IdentitySettings(name="oven-8"), TRIXIE)["meta-data"]


@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_a_command_line_is_a_slots(release):
    """Its root, nothing that would resize it; consoles stay; and to say it twice changes nothing."""
    seed = TRIXIE if release == "trixie" else BOOKWORM
    once = command_line(CMDLINE[release], "a", BOARD, seed)
    words = once.split()
    assert once.count("\n") == 1
    assert {"console=serial0,115200", "rootwait", "root=PARTLABEL=root-a", "msrt.slot=a"} <= set(words)
    assert not {"resize", "init=/usr/lib/raspberrypi-sys-mods/firstboot"} & set(words)
    assert sum(word.startswith("root=") for word in words) == 1
    assert "cfg80211.ieee80211_regdom=DE" in words
    assert ("systemd.run=/boot/firmware/firstrun.sh" in words) == (release == "bookworm")
    assert command_line(once, "a", BOARD, seed) == once
    assert "root=PARTLABEL=root-b" in command_line(once, "b", BOARD, seed)


def test_firstrun_cuts_itself_off_the_command_line(tmp_path):
    """By the very line that it has for it."""
    script = render(BOARD, BOOKWORM)["firstrun.sh"].decode()
    line = next(one for one in script.splitlines() if one.startswith("sed"))
    file = tmp_path / "cmdline.txt"
    file.write_text(command_line(CMDLINE["bookworm"], "a", BOARD, BOOKWORM))
    subprocess.run(["sh", "-c", line.replace("/boot/firmware", str(tmp_path))], check=True)
    assert file.read_text() == command_line(CMDLINE["bookworm"], "a", BOARD, TRIXIE)


@settings(max_examples=60)
@given(
    ssid=st.text(min_size=1, max_size=8).filter(str.isprintable),
    word=st.text("abc'\"\\$`# %{}:", min_size=8, max_size=12),
)
def test_whatever_a_network_is_called_arrives(ssid, word):
    """In both kinds of files, and none breaks out of its place."""
    board = IdentitySettings(wifi=Wifi(ssid=ssid, password=word))
    network = json.loads(render(board, TRIXIE)["network-config"])["network"]
    assert network["wifis"]["wlan0"]["access-points"] == {ssid: {"password": word}}
    lines = render(board, BOOKWORM)["firstrun.sh"].decode().splitlines()
    (call,) = (shlex.split(line) for line in lines if "set_wlan" in line)
    assert call[3:] == [ssid.replace("\\", "\\\\"), word.replace("\\", "\\\\")]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cloud-init") is None, reason="needs cloud-init (apt install cloud-init)")
@pytest.mark.parametrize("board", [BOARD, IdentitySettings()], ids=["full", "bare"])
@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["no-ssh", "ssh"])
def test_cloud_init_takes_the_files(tmp_path, board, keys):
    """By its own schema; the network's file, which has none here, by its parser."""
    for name, data in render(board, Seed(first_boot="cloud-init", ssh_keys=keys)).items():
        (tmp_path / name).write_bytes(data)
    done = subprocess.run(
        ["cloud-init", "schema", "--config-file", str(tmp_path / "user-data")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Valid" in done.stdout
    # What cloud-init reads YAML by reads ours as what it is.
    load = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))"
    network = tmp_path / "network-config"
    found = subprocess.run(["/usr/bin/python3", "-c", load, str(network)], capture_output=True, check=True).stdout
    assert json.loads(found) == json.loads(network.read_text())
