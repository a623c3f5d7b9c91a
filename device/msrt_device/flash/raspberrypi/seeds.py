"""A board's settings as files of the boot partition, for what its release runs at the first boot. Pure.

Raspberry Pi OS "Trixie" (Debian 13) has cloud-init, with its seed in /boot/firmware (NoCloud): `user-data`,
`network-config`, `meta-data`. "Bookworm" (Debian 12) has none: Raspberry Pi Imager leaves a `firstrun.sh` there, and
has the kernel's command line run it (systemd-run-generator). Either installs the agent's package, which lies beside it.
Files for the other release would be ignored without a word (rpi-imager#1385).

cloud-init reads YAML; what is written is JSON, of which every document is one of YAML and no value needs care.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from msrt_device.flash.identity.settings import IdentitySettings
from msrt_device.flash.linux.settings import host_name

__all__ = ["PACKAGE", "SEED_FILE", "Seed", "command_line", "render"]

SEED_FILE: Final = "msrt.json"
"""On a boot partition of ours: what its first boot runs."""
PACKAGE: Final = "msrt-device.deb"
BOOT: Final = "/boot/firmware"
CUSTOM: Final = "/usr/lib/raspberrypi-sys-mods/imager_custom"
"""Bookworm's own tool for what Imager sets."""
LOG: Final = "msrt-first-boot.log"
_DROPPED: Final = (
    "root=", "rootflags=", "rw", "ro", "panic=", "msrt.slot=", "init=", "resize", "firstboot",
    "systemd.run", "systemd.unit=kernel-command-line.target", "cfg80211.ieee80211_regdom=", "ds=nocloud", "ds=",
)  # fmt: skip
"""Of a release's own command line: what is set anew, and what grows a root that has to keep its size."""


class Seed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`msrt.json`."""

    format: int = 1
    first_boot: str
    """`cloud-init` or `firstrun`."""
    ssh_keys: tuple[str, ...] = ()
    """Public keys that may log in as `pi`; without one SSH is off."""


def render(board: IdentitySettings, seed: Seed) -> dict[str, bytes]:
    """The first boot's files, by name."""
    if seed.first_boot == "firstrun":
        return {"firstrun.sh": _firstrun(board, seed).encode()}
    user, network = _user_data(board, seed), _network(board)
    texts = {"user-data": f"#cloud-config\n{_json(user)}", "network-config": _json(network)}
    # Another instance than the one that this medium had before: cloud-init runs again.
    digest = hashlib.sha256("\0".join(texts.values()).encode()).hexdigest()[:16]
    texts["meta-data"] = _json({"instance-id": f"msrt-{digest}", "dsmode": "local"})
    return {name: text.encode() for name, text in texts.items()}


def command_line(text: str, slot: str, board: IdentitySettings, seed: Seed) -> str:
    """The kernel's command line of a slot; the consoles and whatever else stood there stay."""
    words = [word for word in text.split() if not any(_is(word, one) for one in _DROPPED)]
    words += [f"root=PARTLABEL=root-{slot}", "rootflags=noatime", "rw", "panic=10", f"msrt.slot={slot}"]
    if board.wifi.country:
        words.append(f"cfg80211.ieee80211_regdom={board.wifi.country}")
    if seed.first_boot == "firstrun":  # last: firstrun.sh cuts it off
        words += [
            f"systemd.run={BOOT}/firstrun.sh", "systemd.run_success_action=reboot",
            "systemd.unit=kernel-command-line.target",
        ]  # fmt: skip
    return " ".join(words) + "\n"


def _is(word: str, dropped: str) -> bool:
    return word.startswith(dropped) if dropped.endswith("=") or "." in dropped else word == dropped


def _user_data(board: IdentitySettings, seed: Seed) -> dict[str, Any]:
    out: dict[str, Any] = {"hostname": host_name(board), "manage_etc_hosts": True, "ssh_pwauth": False}
    out |= {name: value for name in ("locale", "timezone") if (value := getattr(board, name))}
    if seed.ssh_keys:
        out["users"] = [
            {
                "name": "pi", "lock_passwd": True, "shell": "/bin/bash", "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "groups": ["adm", "dialout", "audio", "video", "plugdev", "users", "input", "netdev", "sudo"],
                "ssh_authorized_keys": list(seed.ssh_keys),
            }
        ]  # fmt: skip
    out["runcmd"] = [
        ["systemctl", "enable" if seed.ssh_keys else "disable", "--now", "ssh.service"],
        ["sh", "-c", f"dpkg --install {BOOT}/{PACKAGE} >{BOOT}/{LOG} 2>&1"],
    ]
    return out


def _network(board: IdentitySettings) -> dict[str, Any]:
    """Netplan's format, version 2."""
    network: dict[str, Any] = {"version": 2, "ethernets": {"eth0": {"dhcp4": True, "optional": True}}}
    wifi = board.wifi
    if wifi.ssid:
        point = {"password": wifi.password} if wifi.password else {}
        link: dict[str, Any] = {"dhcp4": True, "optional": True, "access-points": {wifi.ssid: point}}
        network["wifis"] = {"wlan0": link | ({"regulatory-domain": wifi.country} if wifi.country else {})}
    return {"network": network}


def _firstrun(board: IdentitySettings, seed: Seed) -> str:
    wanted: list[tuple[str, ...]] = [(CUSTOM, "set_hostname", host_name(board))]
    if board.timezone:
        wanted.append((CUSTOM, "set_timezone", board.timezone))
    if board.locale:
        wanted.append(("raspi-config", "nonint", "do_change_locale", board.locale))
    if board.wifi.ssid:
        # It writes a NetworkManager keyfile, where a backslash begins an escape.
        name, word = (text.replace("\\", "\\\\") for text in (board.wifi.ssid, board.wifi.password))
        country = [board.wifi.country] if board.wifi.country else []
        wanted.append((CUSTOM, "set_wlan", "--plain", name, word, *country))
    wanted.append((CUSTOM, "enable_ssh", "-k", *seed.ssh_keys) if seed.ssh_keys else ("systemctl", "disable", "ssh"))
    wanted.append(("dpkg", "--install", f"{BOOT}/{PACKAGE}"))
    lines = [
        "#!/bin/sh", "# Run once, as root, by the kernel's command line. What came of it stays beside it.",
        f"exec >{BOOT}/{LOG} 2>&1", *(shlex.join(one) for one in wanted),
        f"rm -f {BOOT}/firstrun.sh", f"sed -i 's| systemd\\.run=.*||' {BOOT}/cmdline.txt", "sync", "exit 0",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
