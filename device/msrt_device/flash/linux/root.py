"""A read-only system out of unpacked packages: what it does not need is left out, what maintainer scripts would have
done is done, `rootfs/` is laid over it.

The root never changes after this; /var is the data partition, and the little of /etc that is a board's own are links
into it.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from msrt_device.flash.linux.agent import PYTHON, install_agent, make_factory
from msrt_device.flash.linux.contents import DRIVERS_LEFT_OUT, GROUPS, LEFT_OUT, MASKED, USERS, WANTED
from msrt_device.flash.linux.run import run

__all__ = ["ROOTFS", "make_root"]

ROOTFS: Final = Path(__file__).with_name("rootfs")


def make_root(
    packages: Path, tree: Path, architecture: str, wheel: Path | None, progress: Callable[[int, int], None]
) -> None:
    """Make the system at `tree`, an empty folder; kernel and boot loader lie in its /boot and /usr/lib until `layout`
    takes them. Raises AgentUnavailable, ToolFailed."""
    steps: tuple[Callable[[], None], ...] = (
        lambda: _unpack(packages, tree),
        lambda: install_agent(tree / "opt" / "msrt", architecture, wheel),
        lambda: _settle(tree),
        lambda: _compile(tree),
    )
    for done, step in enumerate(steps):
        progress(done, len(steps))
        step()
    progress(len(steps), len(steps))


def _unpack(packages: Path, tree: Path) -> None:
    left_out = [f"--exclude={path}" for path in (*LEFT_OUT, "./dev/*", "./var/*")]
    run(["tar", "--extract", "--zstd", "--file", str(packages), "--directory", str(tree), "--no-same-owner", *left_out])
    for version in (tree / "usr/lib/modules").iterdir():
        for name in DRIVERS_LEFT_OUT:
            shutil.rmtree(version / "kernel" / name, ignore_errors=True)
        run(["depmod", "--basedir", str(tree), "--filesyms", "/dev/null", version.name])
        for text in version.glob("modules.*"):
            if text.suffix != ".bin" and text.name not in {
                "modules.order",
                "modules.builtin",
                "modules.builtin.modinfo",
            }:
                text.unlink()


def _settle(tree: Path) -> None:
    """Users, units, and links for what a board changes."""
    shutil.copytree(ROOTFS, tree, dirs_exist_ok=True, symlinks=True)
    make_factory(tree / "opt" / "msrt", tree / "usr/lib/msrt/agent")
    etc = tree / "etc"
    _users(etc)
    for path in (tree / "usr/bin").iterdir():
        if not path.is_symlink() and path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID):
            path.chmod(0o755)  # nobody is meant to become root here
    for name in ("etc/cron.d", "etc/cron.daily", "etc/init.d", "etc/apt"):
        shutil.rmtree(tree / name, ignore_errors=True)
    for name in ("efi", "srv", "identity", "var", "proc", "sys", "run", "dev", "tmp", "root"):
        (tree / name).mkdir(exist_ok=True)
    own = "/var/lib/msrt-os"
    links = {
        "hostname": f"{own}/hostname", "localtime": f"{own}/localtime", "locale.conf": f"{own}/locale.conf",
        "resolv.conf": "../run/systemd/resolve/stub-resolv.conf",
        "mtab": "../proc/self/mounts", "systemd/system/default.target": "/usr/lib/systemd/system/multi-user.target",
    }  # fmt: skip
    links |= {f"systemd/system/{name}": "/dev/null" for name in MASKED}
    for target, units in WANTED.items():
        for unit in units:
            where = "/etc" if (etc / "systemd/system" / unit).exists() else "/usr/lib"
            links[f"systemd/system/{target}.wants/{unit}"] = f"{where}/systemd/system/{unit}"
    for name, to in links.items():
        link = etc / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(to)
    (etc / "machine-id").write_text("")
    (etc / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")


def _users(etc: Path) -> None:
    groups = {**{name: number for name, number, _, _ in USERS}, **GROUPS}
    groups["nogroup"] = groups.pop("nobody")
    texts = {
        "passwd": [
            f"{name}:x:{number}:{number}::{home}:{shell or '/usr/sbin/nologin'}" for name, number, home, shell in USERS
        ],
        "group": [f"{name}:x:{number}:" for name, number in groups.items()],
        "shadow": [f"{name}:!*:19700::::::" for name, *_ in USERS],
    }
    for name, lines in texts.items():
        (etc / name).write_text("\n".join(lines) + "\n")
    (etc / "shadow").chmod(0o600)


def _compile(tree: Path) -> None:
    """Byte code beside all Python, so that a slow CPU need not make it at each boot of a root it cannot write to."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" != PYTHON:
        return  # another Python's byte code is none: the board does without
    for name in (f"usr/lib/python{PYTHON}", f"opt/msrt/lib/python{PYTHON}"):
        compileall.compile_dir(
            tree / name, quiet=2, workers=os.cpu_count() or 1, stripdir=str(tree), prependdir="/",
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )  # fmt: skip
