"""A small image with what Raspberry Pi OS has where a device is made of it: its partitions, files of the same form."""

from __future__ import annotations

import shutil
import subprocess

import pytest

MIB = 1 << 20
CMDLINE = {
    "bookworm": "console=serial0,115200 console=tty1 root=PARTUUID=4e639091-02 rootfstype=ext4 rootwait "
    "quiet init=/usr/lib/raspberrypi-sys-mods/firstboot\n",
    "trixie": "console=serial0,115200 console=tty1 root=PARTUUID=4e639091-02 rootfstype=ext4 rootwait resize\n",
}
PYTHON = {"bookworm": "3.11", "trixie": "3.13"}
ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00"
tools = pytest.mark.skipif(
    not all(shutil.which(tool) for tool in ("debugfs", "resize2fs", "mkfs.vfat", "mcopy", "sfdisk", "dpkg-deb")),
    reason="needs e2fsprogs, dosfstools, mtools, fdisk and dpkg",
)


def run(*argv, **more):
    return subprocess.run([str(one) for one in argv], check=True, capture_output=True, **more).stdout


def put(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def raspberry_pi_os(folder, release="trixie", *, machine=b"\xb7\x00", without=()):
    """The image's path."""
    python = f"usr/bin/python{PYTHON[release]}"
    root = {
        "usr/lib/os-release": f'PRETTY_NAME="Debian GNU/Linux"\nVERSION_CODENAME={release}\nID=debian\n',
        "etc/rpi-issue": "Raspberry Pi reference 2025-10-01\n", "usr/bin/dpkg": ELF + machine + bytes(44), python: "",
        "etc/passwd": "root:x:0:0:root:/root:/bin/bash\npi:x:1000:1000::/home/pi:/bin/bash\nx:x:980:980::/:/bin/sh\n",
        "etc/group": "root:x:0:\npi:x:1000:\n", "etc/shadow": "root:*:20000:0:99999:7:::\n",
        "etc/gshadow": "root:*::\n",
        "etc/fstab": "PARTUUID=4e639091-02 / ext4 defaults,noatime 0 1\n", "boot/firmware/.keep": "",
        "var/log/big": bytes(range(256)) * 4096,
    }  # fmt: skip
    boot = {"cmdline.txt": CMDLINE[release], "config.txt": "arm_64bit=1\n", "kernel8.img": b"K" * 300_000,
            "overlays/README": "x"}  # fmt: skip
    if release == "trixie":
        root["usr/bin/cloud-init"] = "#!/usr/bin/python3\n"
        boot |= {"user-data": "#cloud-config\n", "network-config": "network: {}\n", "meta-data": "dsmode: local\n"}
    else:
        root["usr/lib/raspberrypi-sys-mods/imager_custom"] = "#!/bin/sh\n"
    for name in without:
        root.pop(name, None)
    image, fat, ext4 = folder / f"{release}.img", folder / "fat", folder / "ext4"
    fat.write_bytes(bytes(40 * MIB))
    run("mkfs.vfat", "-F", 32, "-s", 1, "-n", "bootfs", fat)
    tree = put(folder / "boot-tree", boot)
    run("mcopy", "-s", "-i", fat, *sorted(tree.iterdir()), "::")
    ext4.touch()
    tree = put(folder / "root-tree", root)
    (tree / "etc/shadow").chmod(0o640)
    run("mke2fs", "-q", "-t", "ext4", "-d", tree, "-L", "rootfs", "-O", "^huge_file", ext4, "12m")
    with image.open("wb") as file:
        file.truncate(57 * MIB)
    run("sfdisk", "-q", image, input=b"label: dos\nstart=8192, size=81920, type=c\nstart=90112, size=24576, type=83\n")
    with image.open("r+b") as file:
        for start, part in ((8192, fat), (90112, ext4)):
            file.seek(start * 512)
            file.write(part.read_bytes())
    shutil.rmtree(folder / "boot-tree")
    shutil.rmtree(folder / "root-tree")
    return image


def package(folder, python="3.13", architecture="arm64"):
    """A small .deb that says what the agent's says."""
    control = (
        f"Package: msrt-device\nVersion: 1\nArchitecture: {architecture}\nMaintainer: msrt\n"
        f"Depends: python{python}, libstdc++6\nDescription: agent\n"
    )
    tree = put(folder / f"deb-{python}-{architecture}", {"DEBIAN/control": control, "opt/msrt/x": b"agent" * 1000})
    out = folder / f"{tree.name}.deb"
    run("dpkg-deb", "--build", "--root-owner-group", tree, out)
    return out
