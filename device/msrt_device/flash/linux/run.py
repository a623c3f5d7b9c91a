"""The tools that build an image, run one at a time; what one says is shown only when it fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from msrt.errors import LocalError

__all__ = ["ToolFailed", "as_root", "find_tool", "missing_tools", "run"]

PLACES: Final = (*os.get_exec_path(), "/usr/local/sbin", "/usr/sbin", "/sbin")
"""Debian puts mke2fs and its like where a user does not look."""
TAIL: Final = 12


class ToolFailed(LocalError):
    """A program that builds images failed."""

    code = "tool_failed"

    def __init__(self, argv: Sequence[str], status: int, said: str) -> None:
        tail = "\n".join(said.strip().splitlines()[-TAIL:])
        super().__init__(f"{Path(argv[0]).name} ended with status {status}: {tail or 'it said nothing'}")
        self.argv, self.status = tuple(argv), status


def find_tool(name: str) -> str | None:
    """Its path, also where only root looks."""
    return shutil.which(name, path=os.pathsep.join(PLACES))


def missing_tools(packages: Mapping[str, str]) -> list[str]:
    """Of tools by the Debian package that brings each: what is not here, in words."""
    return [f"{tool} (apt install {package})" for tool, package in packages.items() if find_tool(tool) is None]


def run(argv: Sequence[str], *, stdin: str = "", env: Mapping[str, str] | None = None) -> str:
    """Run a tool to its end and return what it printed. Raises ToolFailed."""
    path = find_tool(argv[0]) or argv[0]
    try:
        done = subprocess.run(  # noqa: S603 - the tools are ours to choose
            [path, *argv[1:]], input=stdin, text=True, capture_output=True, check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
        )  # fmt: skip
    except OSError as error:
        raise ToolFailed(argv, 127, error.strerror or "cannot be started") from error
    if done.returncode:
        raise ToolFailed(argv, done.returncode, done.stderr or done.stdout)
    return done.stdout


def as_root(script: str, *arguments: str) -> str:
    """Run a shell script that sets owners: as we are if we are root, else under fakeroot. Raises ToolFailed."""
    shell = ["sh", "-euc", script, "sh", *arguments]
    path = os.pathsep.join(PLACES)
    return run(shell if os.geteuid() == 0 else ["fakeroot", "--", *shell], env={"PATH": path})
