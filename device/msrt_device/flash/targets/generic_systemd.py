"""generic-systemd: a Debian package of the agent for a machine that runs Linux already. Nothing is flashed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

from msrt.errors import InvalidConfig
from msrt_device.flash.linux.agent import PLATFORMS, PYTHON, PYTHONS, install_agent
from msrt_device.flash.linux.run import as_root, missing_tools
from msrt_device.flash.targets import Progress

__all__ = ["TARGET", "GenericSystemd", "build_package"]

FILES: Final = Path(__file__).parents[1] / "linux" / "package"
CONFIG: Final = '# Settings of the device worker; see deploy/config/device.toml.\nlog_format = "json"\n'
CONTROL: Final = """Package: msrt-device
Version: {version}
Architecture: {architecture}
Maintainer: msrt
Section: misc
Priority: optional
Installed-Size: {size}
Depends: python{python}, libstdc++6, passwd
Recommends: systemd
Description: msrt device worker
 Runs AI models on requests and on the machine's own sensors, as a worker of an msrt edge master. Brings its Python
 packages along, in /opt/msrt.
"""


class GenericSystemd:
    """Debian 12, 13 and what is like them."""

    name = "generic-systemd"
    title = "a machine that runs Debian 12 or 13 (or their like, with systemd and Python 3.11 or 3.13) already: a .deb"
    verified = (
        "Installed by dpkg into a root of Debian 12, where its agent joined and answered; on no machine that boots. "
        "Over SSH: by a real sshd into such a root, whose service manager was a stand-in."
    )
    options: Mapping[str, str] = {
        "architecture": "amd64 (default) or arm64",
        "python": "the machine's: 3.11 (default; Debian 12) or 3.13 (Debian 13)",
        "wheel": "the msrt to put in, a wheel; default: one of the msrt that runs here",
    }

    def needs(self) -> list[str]:
        return missing_tools({"dpkg-deb": "dpkg", "fakeroot": "fakeroot"})

    def build(self, options: Mapping[str, str], out: Path, progress: Progress) -> None:
        """Write the .deb. Raises ToolFailed, AgentUnavailable, InvalidConfig."""
        architecture, python = options.get("architecture", "amd64"), options.get("python", PYTHON)
        for name, value, known in (("architecture", architecture, PLATFORMS), ("python", python, PYTHONS)):
            if value not in known:
                raise InvalidConfig(f"{name} = {value!r}", hint=f"one of {', '.join(known)}")
        build_package(out, architecture, python, options.get("wheel", ""), progress)


def build_package(out: Path, architecture: str, python: str, wheel: str, progress: Progress) -> None:
    """Write the .deb for machines of this CPU that have this Python. Raises ToolFailed, AgentUnavailable."""
    with tempfile.TemporaryDirectory(prefix="msrt-deb-", dir=out.parent) as scratch:
        tree = Path(scratch)
        tree.chmod(0o755)
        progress("agent", 0, 2)
        install_agent(tree / "opt/msrt", architecture, Path(wheel) if wheel else None, python)
        _files(tree, architecture, python)
        progress("agent", 1, 2)
        as_root('chown -R 0:0 "$1"; dpkg-deb -Zzstd -z10 --build "$1" "$2" >/dev/null', str(tree), str(out))
        progress("agent", 2, 2)


def _files(tree: Path, architecture: str, python: str) -> None:
    size = sum(path.lstat().st_size for path in tree.rglob("*")) // 1024
    for name, to, mode in (
        ("msrt-device.service", "usr/lib/systemd/system", 0o644), ("msrt-device", "usr/bin", 0o755),
        ("postinst", "DEBIAN", 0o755), ("prerm", "DEBIAN", 0o755),
    ):  # fmt: skip
        (tree / to).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(FILES / name, tree / to / name)
        (tree / to / name).chmod(mode)
    (tree / "etc/msrt").mkdir(parents=True)
    (tree / "etc/msrt/device.toml").write_text(CONFIG)
    (tree / "DEBIAN/conffiles").write_text("/etc/msrt/device.toml\n")
    (tree / "DEBIAN/control").write_text(
        CONTROL.format(version=version("msrt"), architecture=architecture, size=size, python=python)
    )


TARGET: Final = GenericSystemd()
