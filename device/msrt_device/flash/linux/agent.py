"""msrt and what its device worker needs, as a virtual environment for another machine.

Wheels are fetched for that machine's CPU and laid out here: nothing of it runs. Versions are those of this
installation, so a board gets what was tested together.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement

import msrt
from msrt.errors import LocalError
from msrt_device.flash.linux.run import run
from msrt_device.updater.packing import PROGRAM

__all__ = ["PYTHON", "PYTHONS", "AgentUnavailable", "install_agent", "make_factory", "own_wheel"]

PYTHON: Final = "3.11"
"""Debian 12's."""
PYTHONS: Final = (PYTHON, "3.13")
"""And Debian 13's."""
PLATFORMS: Final = {
    "amd64": ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"),
    "arm64": ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"),
}  # fmt: skip
"""glibc 2.36 runs them all."""
UNUSED: Final = (
    "onnxruntime/transformers", "onnxruntime/quantization", "onnxruntime/tools", "onnxruntime/datasets",
    "onnxruntime/backend", "sympy", "mpmath", "isympy.py", "bin",
)  # fmt: skip
"""What no device imports: onnxruntime's own tools and what only they need."""
TIERS: Final = ("msrt_cloud", "msrt_edge", "msrt_examples")
"""Other floors of the house."""


class AgentUnavailable(LocalError):
    """This installation cannot make a wheel of itself."""

    code = "agent_unavailable"


def own_wheel(folder: Path) -> Path:
    """A wheel of the msrt that runs here, made in `folder`. Raises AgentUnavailable, ToolFailed."""
    checkout = Path(msrt.__file__).parents[2]
    if not (checkout / "pyproject.toml").exists():  # not installed from a checkout as `make demo` does
        source = json.loads(metadata.distribution("msrt").read_text("direct_url.json") or "{}")
        url = urlsplit(source.get("url", ""))
        wheel = Path(unquote(url.path))
        if url.scheme == "file" and wheel.is_file():
            return wheel
        raise AgentUnavailable(
            "this msrt was installed neither from a checkout nor from a wheel file that is still there",
            hint="give one: --set wheel=msrt-VERSION-py3-none-any.whl",
        )
    run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(checkout)])
    return next(folder.glob("msrt-*.whl"))


def install_agent(target: Path, architecture: str, wheel: Path | None = None, python: str = PYTHON) -> None:
    """Make the agent's virtual environment at `target`, a board's /opt/msrt. Raises AgentUnavailable, ToolFailed."""
    packages = target / "lib" / f"python{python}" / "site-packages"
    packages.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="msrt-wheel-") as scratch:
        agent = wheel or own_wheel(Path(scratch))
        argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--only-binary=:all:"]
        argv += ["--disable-pip-version-check", "--target", str(packages), "--python-version", python]
        argv += [flag for name in PLATFORMS[architecture] for flag in ("--platform", name)]
        run([*argv, str(agent), *pins()])
    for name in (*UNUSED, *TIERS):
        _remove(packages / name)
    for tests in [*packages.glob("*/tests"), *packages.glob("*/*/tests")]:
        _remove(tests)
    _environment(target, python)


def make_factory(target: Path, folder: Path) -> None:
    """What `launcher` starts the agent at `target` by, until another one is sent over the air; the launcher as well.

    The build is named by what is in it: the slots that were filled on top of one are of no use to another.
    """
    packages = target / "lib" / f"python{PYTHON}" / "site-packages"
    records = sorted(packages.glob("*.dist-info/RECORD"))
    build = hashlib.sha256(b"".join(hashlib.sha256(record.read_bytes()).digest() for record in records)).hexdigest()
    version = next(packages.glob("msrt-*.dist-info")).name.removeprefix("msrt-").removesuffix(".dist-info")
    shutil.copyfile(packages / "msrt_device/updater/launcher.py", folder / "launcher.py")
    (folder / "agent.py").write_text(PROGRAM)
    (folder / "slot.json").write_text(json.dumps({"version": version, "build": build}) + "\n")


def pins() -> list[str]:
    """What a device needs beside msrt, each as NAME==VERSION of what is installed here."""
    known: dict[str, str] = {}
    todo = [(name, frozenset[str]()) for name in _needed("msrt", frozenset({"device"}))]
    while todo:
        name, extras = todo.pop()
        if name in known or name in UNUSED:
            continue
        known[name] = metadata.version(name)
        todo += [(one, frozenset[str]()) for one in _needed(name, extras)]
    return [f"{name}=={version}" for name, version in sorted(known.items())]


def _needed(name: str, extras: frozenset[str]) -> Iterable[str]:
    for text in metadata.requires(name) or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(
            marker.evaluate({"extra": extra, "platform_machine": "", "sys_platform": "linux"})
            for extra in extras or {""}
        ):
            yield re.sub(r"[-_.]+", "-", requirement.name).lower()


def _environment(target: Path, python: str) -> None:
    """What `python -m venv` makes, without running the board's Python."""
    programs = target / "bin"
    programs.mkdir()
    for name in ("python", "python3", f"python{python}"):
        (programs / name).symlink_to(f"/usr/bin/python{python}")
    (target / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python}\n")
    command = programs / "msrt"
    command.write_text("#!/opt/msrt/bin/python -I\nimport sys\nfrom msrt.cli import main\nsys.exit(main())\n")
    command.chmod(0o755)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
