"""Debian packages of a machine, of any CPU, unpacked and not configured: nothing of it runs on the machine that builds.

Maintainer scripts do not run (mmdebstrap's variant `extract`): what of their work an unchanging system needs is done
by `root`. So an image for another CPU needs no emulator, and none of it needs a mount.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from msrt_device.flash.linux.run import run

__all__ = ["PACKAGES", "SUITE", "cache_folder", "fetch_root"]

SUITE: Final = "bookworm"
RECIPE: Final = 1
"""Raised when the same packages are fetched in another way."""
PACKAGES: Final = (
    "base-files", "base-passwd", "busybox-static", "coreutils", "dash", "dosfstools", "e2fsprogs", "kmod", "libc-bin",
    "libstdc++6", "mount", "python3", "systemd", "systemd-boot-efi", "systemd-resolved", "systemd-sysv",
    "systemd-timesyncd", "tzdata", "udev", "util-linux", "wireless-regdb", "wpasupplicant",
)  # fmt: skip
"""Beside the kernel. busybox and the boot loader do not stay in the root: they go into the initrd and the ESP."""
MERGE: Final = 'for d in bin sbin lib {extra}; do mkdir -p "$1/usr/$d"; ln -s "usr/$d" "$1/$d"; done'
"""/bin and its like are links into /usr, as on every Debian 12."""


def cache_folder() -> Path:
    """Where roots are kept: $XDG_CACHE_HOME/msrt/images."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "msrt" / "images"


def fetch_root(
    architecture: str,
    extra: Sequence[str] = (),
    *,
    mirror: str = "",
    fresh: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Path:
    """The packages of a root as a cached tar (.tar.zst), fetched if it is not there or is to be `fresh`.

    `mirror` is what mmdebstrap takes: a URL, a line of sources.list or a file of them. Raises ToolFailed.
    """
    include = sorted({*PACKAGES, *extra, f"linux-image-{architecture}"})
    recipe = json.dumps([RECIPE, SUITE, architecture, include, mirror, MERGE])
    key = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    kept = cache_folder() / f"root-{architecture}-{key}.tar.zst"
    if kept.exists() and not fresh:
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    draft = kept.with_name(f"draft-{os.getpid()}-{kept.name}")
    progress(0, 1)
    try:
        run(
            [
                "mmdebstrap", "--variant=extract", f"--architectures={architecture}", "--components=main",
                f"--include={','.join(include)}",
                "--setup-hook=" + MERGE.format(extra="lib64" if architecture == "amd64" else ""),
                SUITE, str(draft), *([mirror] if mirror else _own_sources()),
            ]
        )  # fmt: skip
        draft.replace(kept)
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
    progress(1, 1)
    return kept


def _own_sources() -> list[str]:
    """This machine's own apt sources, if it runs the same Debian; else mmdebstrap's default, Debian's own mirrors."""
    with contextlib.suppress(OSError):
        system = platform.freedesktop_os_release()
        if system.get("ID") == "debian" and system.get("VERSION_CODENAME") == SUITE:
            for path in ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"):
                if Path(path).exists():
                    return [path]
    return []
