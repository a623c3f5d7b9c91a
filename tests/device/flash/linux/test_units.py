"""The units that a root has over Debian's: what starts them; a board without an identity, and one that hangs."""

from __future__ import annotations

import configparser
import shutil
import subprocess

import pytest

from msrt_device.flash.linux.contents import DRIVERS_LEFT_OUT, WANTED
from msrt_device.flash.linux.layout import boot_entry
from msrt_device.flash.linux.root import ROOTFS
from msrt_device.flash.raspberrypi import root as raspberrypi
from msrt_device.wiping import MEMBER

UNITS = ROOTFS / "etc/systemd/system"
IDENTITY = "/identity/identity.toml"
KNOWN = (IDENTITY, f"/var/lib/msrt/device/{MEMBER}")
OTHERS = {"msrt-reboot.service": "msrt-reboot.path", "msrt-wifi@.service": "udev"}
"""Units that nothing wants, and what starts them."""


def unit(path):
    found = configparser.ConfigParser(strict=False, interpolation=None)
    found.optionxform = str
    found.read_string(path.read_text())
    return found


def conditions(sign):
    return [f"ConditionPathExists={sign}{path}" for path in KNOWN]


def test_every_unit_is_started_by_something():
    """A unit of ours that no target wants is started by a path, or by udev."""
    wanted = {name for names in WANTED.values() for name in names}
    for path in UNITS.iterdir():
        assert path.name in wanted or path.name in OTHERS, path.name


def test_systemd_understands_each_unit(tmp_path):
    """The real parser finds no unknown line."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    for path in UNITS.iterdir():
        text = (
            path.read_text()
            .replace("/opt/msrt/bin/python", "/bin/true")
            .replace("/usr/sbin/wpa_supplicant", "/bin/true")
        )
        (tmp_path / path.name).write_text(text)
    files = [str(path) for path in tmp_path.iterdir() if "@" not in path.name]
    done = subprocess.run([tool, "verify", *files], capture_output=True, text=True, timeout=60, check=False)
    assert [line for line in done.stderr.splitlines() if "msrt-" in line and "not found" not in line] == []


def test_a_board_without_an_identity_waits_and_says_what_to_do():
    """Its agent is not started again and again; it begins when the identity is written, and one line says how."""
    agent, told = UNITS / "msrt-device.service", UNITS / "msrt-no-identity.service"
    assert [line for line in agent.read_text().splitlines() if line.startswith("Condition")] == conditions("|")
    assert [line for line in told.read_text().splitlines() if line.startswith("Condition")] == conditions("!")
    assert unit(UNITS / "msrt-device.path")["Path"]["PathChanged"] == IDENTITY
    script = ROOTFS / unit(told)["Service"]["ExecStart"].split()[1].lstrip("/")
    done = subprocess.run(["sh", script], capture_output=True, text=True, timeout=10, check=True)
    assert done.stdout.count("\n") == 1
    assert "msrt device flash TARGET --identity-only --invite INVITE" in done.stdout


def test_a_board_that_hangs_is_reset():
    """The machine by its watchdog, whose drivers stay in; the agent by systemd's; a kernel that panics by itself."""
    manager = unit(ROOTFS / "etc/systemd/system.conf.d/msrt.conf")["Manager"]
    assert manager["RuntimeWatchdogSec"] == "1min"
    assert manager["RebootWatchdogSec"] == "2min"
    assert not [name for name in DRIVERS_LEFT_OUT if "drivers/watchdog".startswith(name)]
    agent = unit(UNITS / "msrt-device.service")["Service"]
    assert (agent["WatchdogSec"], agent["NotifyAccess"], agent["Restart"]) == ("2min", "all", "always")
    assert " panic=5 " in boot_entry("a", 1, "amd64")


def test_a_raspberry_pi_that_hangs_is_reset():
    """The same, within what its watchdog can count to: 15 s."""
    manager = unit(raspberrypi.ROOTFS / "etc/systemd/system.conf.d/msrt.conf")["Manager"]
    assert 0 < float(manager["RuntimeWatchdogSec"].removesuffix("s")) <= 15
