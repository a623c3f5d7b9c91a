"""What an identity says of the machine itself, applied at each boot: host name, time zone, locale, Wi-Fi.

Run as root by msrt-settings.service, `python -m msrt_device.flash.linux.settings IDENTITY OS`: it reads the mounted
MSRTID and writes what /etc links to. It never fails a boot: a setting that cannot be applied is said in the journal,
the others are applied.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import Final

from msrt.errors import MsrtError
from msrt_device.flash.identity.folder import IdentityFolder
from msrt_device.flash.identity.settings import IdentitySettings, Wifi

__all__ = ["apply", "host_name", "main", "wpa_supplicant"]

ZONES: Final = Path("/usr/share/zoneinfo")


def apply(board: IdentitySettings, folder: Path, zones: Path = ZONES) -> list[str]:
    """Write what the board's settings ask for into `folder`; what was asked and cannot be had, in words.

    A file changes only when its content does, by a rename: a power cut leaves the old one or the new one.
    """
    wrong = []
    _write(folder / "hostname", f"{host_name(board)}\n")
    _write(folder / "locale.conf", f"LANG={board.locale}\n" if board.locale else "")
    if board.timezone and not (zones / board.timezone).is_file():
        wrong.append(f"there is no time zone {board.timezone!r}: UTC is in force")
    _link(folder / "localtime", zones / board.timezone if board.timezone and not wrong else zones / "Etc/UTC")
    wifi = folder / "wpa_supplicant.conf"
    if board.wifi.ssid:
        _write(wifi, wpa_supplicant(board.wifi))
    else:
        wifi.unlink(missing_ok=True)
    return wrong


def host_name(board: IdentitySettings) -> str:
    """A host name (RFC 1123) of the node's name, else of its serial number."""
    wanted = board.name or (f"msrt-{board.serial}" if board.serial else "msrt")
    clean = "".join(one if one.isascii() and one.isalnum() else "-" for one in wanted.lower())
    return clean.strip("-")[:63].rstrip("-") or "msrt"


def wpa_supplicant(wifi: Wifi) -> str:
    """Its configuration. The SSID goes as hexadecimal digits: it may hold quotes."""
    lines = [f"country={wifi.country}"] if wifi.country else []
    lines += ["network={", f"\tssid={wifi.ssid.encode().hex()}", "\tscan_ssid=1"]
    if not wifi.password:
        lines.append("\tkey_mgmt=NONE")
    elif len(wifi.password) == 64:
        lines += ["\tkey_mgmt=WPA-PSK", f"\tpsk={wifi.password}"]
    else:  # a quote inside needs no escape: the value ends with the line's last one
        lines += ["\tkey_mgmt=WPA-PSK WPA-PSK-SHA256 SAE", "\tieee80211w=1", f'\tpsk="{wifi.password}"']
    return "\n".join([*lines, "}"]) + "\n"


def main(identity: str, os_folder: str) -> int:
    """Apply, and take the host name at once."""
    folder = Path(os_folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        board = IdentityFolder(Path(identity)).read()
    except MsrtError as error:
        sys.stderr.write(f"msrt: {error}\n")
        return 0
    for sentence in apply(board, folder):
        sys.stderr.write(f"msrt: {sentence}\n")
    with contextlib.suppress(OSError):
        socket.sethostname(host_name(board))
    return 0


def _write(path: Path, text: str) -> None:
    with contextlib.suppress(OSError):
        if path.read_text() == text:
            return
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    draft.touch(0o600 if path.name == "wpa_supplicant.conf" else 0o644)
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _link(path: Path, to: Path) -> None:
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    draft.symlink_to(to)
    draft.replace(path)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
