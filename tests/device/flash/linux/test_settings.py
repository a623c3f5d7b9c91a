"""A board's settings as the system takes them."""

from __future__ import annotations

import stat

import pytest

from msrt_device.flash.identity.settings import IdentitySettings, Wifi
from msrt_device.flash.linux.settings import apply, host_name, main, wpa_supplicant


@pytest.fixture
def zones(tmp_path):
    for name in ("zones/Etc/UTC", "zones/Europe/Berlin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "os").mkdir()
    return tmp_path / "zones"


def test_what_is_asked_for_is_written_and_what_is_not_is_taken_back(tmp_path, zones):
    """An identity that was written anew leaves nothing of the one before."""
    board = IdentitySettings(
        name="press-7", locale="de_DE.UTF-8", timezone="Europe/Berlin", wifi=Wifi(ssid="hall", password="12345678")
    )
    os = tmp_path / "os"
    assert apply(board, os, zones) == []
    assert (os / "hostname").read_text() == "press-7\n"
    assert (os / "locale.conf").read_text() == "LANG=de_DE.UTF-8\n"
    assert (os / "localtime").readlink() == zones / "Europe/Berlin"
    assert stat.S_IMODE((os / "wpa_supplicant.conf").stat().st_mode) == 0o600
    assert apply(IdentitySettings(), os, zones) == []
    assert (os / "localtime").readlink() == zones / "Etc/UTC"
    assert (os / "locale.conf").read_text() == ""
    assert not (os / "wpa_supplicant.conf").exists()


def test_a_zone_that_is_not_there_is_said(tmp_path, zones):
    """The rest is applied."""
    assert apply(IdentitySettings(name="x", timezone="Mars/Base"), tmp_path / "os", zones) == [
        "there is no time zone 'Mars/Base': UTC is in force"
    ]
    assert (tmp_path / "os/hostname").read_text() == "x\n"


def test_host_names_are_of_the_name_or_the_serial_number():
    """Host names know letters, digits and hyphens."""
    assert host_name(IdentitySettings(serial="SN_00.7")) == "msrt-sn-00-7"
    assert host_name(IdentitySettings()) == "msrt"


@pytest.mark.parametrize(
    ("wifi", "lines"),
    [
        (Wifi(ssid="open"), ["ssid=6f70656e", "key_mgmt=NONE"]),
        (Wifi(ssid='a"b', password='12345"78', country="DE"), ["country=DE", "ssid=612262", 'psk="12345"78"']),
        (Wifi(ssid="k", password="0" * 64), ["key_mgmt=WPA-PSK", f"psk={'0' * 64}"]),
    ],
)
def test_a_network_is_spelled_so_that_nothing_in_it_can_end_it(wifi, lines):
    """Names as hexadecimal digits, keys as they are."""
    written = [line.strip() for line in wpa_supplicant(wifi).splitlines()]
    assert set(lines) <= set(written)


def test_a_board_without_an_identity_boots_all_the_same(tmp_path, capsys):
    """The journal says what is missing."""
    assert main(str(tmp_path), str(tmp_path / "os")) == 0
    assert "there is no" in capsys.readouterr().err
