"""raspberrypi: Raspberry Pi OS as the user gives it, with the agent, two slots, and a place for an identity."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from msrt.errors import InvalidConfig
from msrt_device.flash.linux.layout import MIB
from msrt_device.flash.linux.run import missing_tools, run
from msrt_device.flash.raspberrypi.ext4 import Ext4
from msrt_device.flash.raspberrypi.given import Given, look_at, unpack
from msrt_device.flash.raspberrypi.layout import fill_boot, pack_system, write_image
from msrt_device.flash.raspberrypi.root import make_root
from msrt_device.flash.targets import Progress
from msrt_device.flash.targets.generic_systemd import build_package

__all__ = ["TARGET", "RaspberryPi"]

TOOLS: Final = {
    "debugfs": "e2fsprogs", "e2fsck": "e2fsprogs", "resize2fs": "e2fsprogs", "mke2fs": "e2fsprogs",
    "mkfs.vfat": "dosfstools", "mcopy": "mtools", "sfdisk": "fdisk", "dpkg-deb": "dpkg", "fakeroot": "fakeroot",
}  # fmt: skip
ARCHITECTURE: Final = "arm64"
ROOM: Final = 1024 * MIB
"""What a slot has beyond the root given, where nothing says it."""


class RaspberryPi:
    """64-bit boards whose boot loader is in EEPROM."""

    name = "raspberrypi"
    title = "Raspberry Pi 4, 400, 5, CM4, CM5: the 64-bit Raspberry Pi OS that you give, two slots by tryboot"
    verified = (
        "On no Raspberry Pi, and with no image of Raspberry Pi OS, which was not here: images of its layout were made, "
        "flashed and read back, user-data held against cloud-init's schema, mounts and units booted with Debian 12 in "
        "QEMU, and the slots run on a model of the boot loader as it is documented."
    )
    options: Mapping[str, str] = {
        "base": "Raspberry Pi OS, 64-bit, Bookworm or Trixie: .img, .img.xz or .img.zst; has to be given",
        "agent": "the agent's .deb for arm64; default: made here, as that of generic-systemd",
        "wheel": "the msrt to make it of, a wheel; default: one of the msrt that runs here",
        "ssh": "a file of public keys (authorized_keys) that may log in as pi; default: SSH is off",
        "slot": "MiB of each root partition; default: 1024 more than the root of the image",
        "update": "a file for the same system as an image to be sent over the air (msrt update push); Trixie or newer",
    }

    def needs(self) -> list[str]:
        return missing_tools(TOOLS)

    def build(self, options: Mapping[str, str], out: Path, progress: Progress) -> None:
        """Unpack, write into it, lay out. Raises NotRaspberryPiOs, BadImage, RootNotTaken, InvalidConfig."""
        if not options.get("base"):
            raise InvalidConfig("no image of Raspberry Pi OS", hint="--set base=FILE.img.xz, from raspberrypi.com")
        keys = _keys(options.get("ssh", ""))
        with tempfile.TemporaryDirectory(prefix="msrt-pi-", dir=out.parent) as scratch:
            folder = Path(scratch)
            given = look_at(unpack(Path(options["base"]), folder, partial(progress, "unpack")), folder)
            root = _slot(options, given)
            package = self._package(options, given, folder, progress)
            progress("system", 0, 2)
            make_root(given.root)
            progress("system", 1, 2)
            Ext4(given.root).grow(root)
            fill_boot(given, package, keys)
            progress("system", 2, 2)
            if options.get("update"):
                pack_system(given, Path(options["update"]))
            write_image(given, root, out, partial(progress, "image"))

    def _package(self, options: Mapping[str, str], given: Given, folder: Path, progress: Progress) -> bytes:
        """The .deb, for this CPU and this release's Python."""
        path = Path(options["agent"]) if options.get("agent") else folder / "agent.deb"
        if not options.get("agent"):
            build_package(path, ARCHITECTURE, given.python, options.get("wheel", ""), progress)
        elif not path.is_file():
            raise InvalidConfig(f"there is no package {path}")
        said = run(["dpkg-deb", "--field", str(path), "Package", "Architecture", "Depends"])
        for wanted in ("Package: msrt-device", f"Architecture: {ARCHITECTURE}", f"python{given.python}"):
            if wanted not in said:
                raise InvalidConfig(
                    f"{path.name} is no agent for {given.release} on {ARCHITECTURE}: it does not say {wanted!r}",
                    hint="make one by msrt device image generic-systemd, --set architecture and python",
                )
        return path.read_bytes()


def _keys(path: str) -> tuple[str, ...]:
    if not path:
        return ()
    try:
        lines = [line.strip() for line in Path(path).read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"cannot read ssh = {path}: {error}") from None
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys or any("PRIVATE KEY" in key or not key.isprintable() or len(key.split()) < 2 for key in keys):
        raise InvalidConfig(f"ssh = {path} holds no public keys", hint="such as ~/.ssh/id_ed25519.pub")
    return keys


def _slot(options: Mapping[str, str], given: Given) -> int:
    """Bytes of a root partition."""
    has = given.root.stat().st_size
    if not options.get("slot"):
        return -(-(has + ROOM) // MIB) * MIB
    if not options["slot"].isdecimal() or int(options["slot"]) * MIB < has:
        raise InvalidConfig(f"slot = {options['slot']}", hint=f"MiB, {-(-has // MIB)} at least: the root of the image")
    return int(options["slot"]) * MIB


TARGET: Final = RaspberryPi()
