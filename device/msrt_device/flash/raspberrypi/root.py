"""What the root of Raspberry Pi OS gets: mounts that fit either slot, the agent's user, units; nothing of it runs.

The agent itself comes with its package at the first boot of a slot; it finds its identity, its state and the other slot
mounted. A root stays what it is for people: its packages are Debian's, and what is changed in it is gone with the next
system; what the agent keeps is on the partition `data`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from msrt_device.flash.raspberrypi.ext4 import Ext4

__all__ = ["FSTAB", "USER", "make_root"]

ROOTFS: Final = Path(__file__).with_name("rootfs")
USER: Final = "msrt"
IDS: Final = range(980, 900, -1)
"""Of system users; the first that nobody has."""
FSTAB: Final = """proc /proc proc defaults 0 0
/dev/disk/msrt/boot /boot/firmware vfat umask=0077 0 2
PARTLABEL=msrtid /etc/msrt/identity vfat uid={uid},gid={uid},umask=0077,quiet,nofail 0 0
PARTLABEL=autoboot /boot/msrt vfat uid={uid},gid={uid},umask=0077,flush 0 0
PARTLABEL=data /var/lib/msrt ext4 noatime 0 2
"""
"""The root itself is in the kernel's command line. /dev/disk/msrt/boot is of the slot that runs (70-msrt.rules)."""
WANTED: Final = ("msrt-grow.service", "msrt-reboot.path", "msrt-trial.service")


def make_root(image: Path) -> None:
    """Into the ext4 file system `image`, and read back. Raises RootNotTaken, ToolFailed."""
    files = Ext4(image)
    uid = _user(files)
    files.write("/etc/fstab", FSTAB.format(uid=uid).encode())
    for path in sorted(one for one in ROOTFS.rglob("*") if one.is_file()):
        place = f"/{path.relative_to(ROOTFS)}"
        files.write(place, path.read_bytes(), 0o755 if place.startswith("/usr/lib/msrt/") else 0o644)
    for unit in WANTED:
        files.link(f"/etc/systemd/system/multi-user.target.wants/{unit}", f"../{unit}")
    for folder in ("/etc/msrt/identity", "/boot/msrt", "/var/lib/msrt"):
        files.folder(folder)


def _user(files: Ext4) -> int:
    """The agent's, made before its package is: mounts name its number."""
    texts = {name: files.text(f"/etc/{name}") for name in ("passwd", "group", "shadow", "gshadow")}
    if found := re.search(rf"^{USER}:[^:]*:(\d+):", texts["passwd"], re.MULTILINE):
        return int(found[1])
    taken = {int(one) for name in ("passwd", "group") for one in re.findall(r"(?m)^[^:]+:[^:]*:(\d+):", texts[name])}
    uid = next(one for one in IDS if one not in taken)
    for name, line in (
        ("passwd", f"{USER}:x:{uid}:{uid}::/var/lib/msrt:/usr/sbin/nologin"), ("group", f"{USER}:x:{uid}:"),
        ("shadow", f"{USER}:!:19000::::::"), ("gshadow", f"{USER}:!::"),
    ):  # fmt: skip
        if texts[name]:
            files.write(f"/etc/{name}", f"{texts[name].rstrip()}\n{line}\n".encode())
    return uid
