"""The boards: one `Target` a file, found through this table, loaded when it is asked for.

A target makes a *base image*: generic, the same for every board of its kind, with no identity and no secret in it, so
that it can be kept and handed on. Who a board is comes with `msrt device flash --invite`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from msrt.config import nearest
from msrt.errors import LocalError, NotFound

__all__ = ["TARGETS", "MissingTools", "Progress", "Target", "load_target", "targets"]

TARGETS: Final[dict[str, str]] = {
    "cortex-m": "msrt_device.flash.targets.cortex_m:TARGET",
    "micropython": "msrt_device.flash.targets.micropython:TARGET",
    "linux-amd64-uefi": "msrt_device.flash.targets.linux_uefi:AMD64",
    "linux-arm64-uefi": "msrt_device.flash.targets.linux_uefi:ARM64",
    "raspberrypi": "msrt_device.flash.targets.raspberrypi:TARGET",
    "generic-systemd": "msrt_device.flash.targets.generic_systemd:TARGET",
}
"""Name to MODULE:OBJECT of what makes it, in the order in which they are listed."""

Progress = Callable[[str, int, int], None]
"""(stage, done, total): bytes or steps; a total of 0 is unknown. Called often; cheap."""


class MissingTools(LocalError):
    """What a target needs to build is not installed here."""

    code = "missing_tools"

    def __init__(self, target: str, needs: list[str]) -> None:
        super().__init__(f"{target} cannot be built here: {'; '.join(needs)}")
        self.needs = needs


class Target(Protocol):
    """A kind of board."""

    name: str
    """As in `msrt device image NAME`."""
    title: str
    """The board and what runs on it, in a line."""
    verified: str
    """An honest sentence: what was tried, in emulation or on a real board, and what was not."""
    options: Mapping[str, str]
    """What `--set KEY=VALUE` may say, and what each means."""

    def needs(self) -> list[str]:
        """What is missing on this machine before it can be built, each in words, with how to get it."""

    def build(self, options: Mapping[str, str], out: Path, progress: Progress) -> None:
        """Write the base image or firmware, not compressed, to `out`.

        A hole in it promises that it does not matter what a medium holds there: the writer leaves it as it is. What has
        to be zeros is written as zeros.
        `options` has known keys only. `out` does not exist and lies in a folder of the caller's, where drafts may lie
        beside it. The caller compresses it, writes its block map, and moves it where it belongs.
        """


def load_target(name: str) -> Target:
    """The target of that name. Raises NotFound naming the nearest."""
    if name not in TARGETS:
        hint = f"did you mean {nearest(name, TARGETS)!r}? (msrt device targets)" if TARGETS else None
        raise NotFound(f"no target is named {name!r}", hint=hint)
    module, _, attribute = TARGETS[name].partition(":")
    target: Target = getattr(importlib.import_module(module), attribute)
    return target


def targets() -> list[Target]:
    """All of them."""
    return [load_target(name) for name in TARGETS]
