"""linux-amd64-uefi and linux-arm64-uefi: Debian 12 with the agent, two slots, for machines that boot by UEFI."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from msrt.errors import InvalidConfig
from msrt_device.flash.linux import debian, layout, root
from msrt_device.flash.linux.run import missing_tools
from msrt_device.flash.targets import Progress

__all__ = ["AMD64", "ARM64", "LinuxUefi"]

TOOLS: Final = {
    "mmdebstrap": "mmdebstrap", "tar": "tar", "zstd": "zstd", "depmod": "kmod", "mke2fs": "e2fsprogs",
    "mkfs.vfat": "dosfstools", "mcopy": "mtools", "sfdisk": "fdisk", "fakeroot": "fakeroot",
}  # fmt: skip
"""Each with the Debian package that brings it."""


class LinuxUefi:
    """Of one architecture, by Debian's name of it."""

    options: Mapping[str, str] = {
        "packages": "more Debian packages, by commas: firmware of a Wi-Fi card, drivers of a sensor",
        "mirror": "URL of a Debian mirror, or a file of apt sources; default: this machine's, if it runs Debian 12",
        "wheel": "the msrt to put in, a wheel; default: one of the msrt that runs here",
        "update": "a file for the same system as an image to be sent over the air (msrt update push)",
        "fresh": "`yes` fetches packages anew that were fetched before",
    }

    def __init__(self, architecture: str, title: str, verified: str) -> None:
        self.architecture = architecture
        self.name = f"linux-{architecture}-uefi"
        self.title = title
        self.verified = verified

    def needs(self) -> list[str]:
        return missing_tools(TOOLS)

    def build(self, options: Mapping[str, str], out: Path, progress: Progress) -> None:
        """Fetch, lay out, write. Raises ToolFailed, AgentUnavailable, InvalidConfig."""
        if (fresh := options.get("fresh", "no")) not in {"yes", "no"}:
            raise InvalidConfig(f"fresh = {fresh!r}", hint="say yes or no")
        wheel = Path(options["wheel"]) if options.get("wheel") else None
        if wheel is not None and not wheel.is_file():
            raise InvalidConfig(f"there is no wheel {wheel}")
        packages = debian.fetch_root(
            self.architecture,
            [name.strip() for name in options.get("packages", "").split(",") if name.strip()],
            mirror=options.get("mirror", ""),
            fresh=fresh == "yes",
            progress=partial(progress, "packages"),
        )
        with tempfile.TemporaryDirectory(prefix="msrt-root-", dir=out.parent) as scratch:
            tree, files = Path(scratch) / "root", Path(scratch) / "files"
            tree.mkdir(mode=0o755)
            files.mkdir()
            root.make_root(
                packages, tree, self.architecture, wheel, lambda done, total: progress("system", done, total)
            )
            system = layout.make_system(tree, files, self.architecture)
            if options.get("update"):
                layout.pack_system(system, self.name, Path(options["update"]))
            layout.write_image(system, out, self.architecture, partial(progress, "image"))


AMD64: Final = LinuxUefi(
    "amd64",
    "PC, server, virtual machine: x86-64 with UEFI; Debian 12",
    "Booted in QEMU (q35, OVMF) from power-on to an answered inference; there another system came over the air and was "
    "committed; power cuts and a kernel that panics left the old one in force; on no real machine. No Secure Boot.",
)
ARM64: Final = LinuxUefi(
    "arm64",
    "64-bit Arm board or server with UEFI; Debian 12",
    "Booted in QEMU (virt, AAVMF) from power-on to an answered inference; on no real board.",
)
