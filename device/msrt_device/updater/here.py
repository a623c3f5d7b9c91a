"""What can be updated on this machine: found by where this process was started from, loaded only where it is there."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msrt.artifacts.images import Kind

if TYPE_CHECKING:
    from msrt_device.updater.slots import Slots

__all__ = ["agent_slots", "agent_version", "system_slots", "tryboot_slots"]

ESP: Final = Path("/efi")
BOOT: Final = Path("/boot/msrt")
"""Of a Raspberry Pi, where its boot loader reads first."""


def agent_slots(leave: Callable[[], None]) -> Mapping[str, Slots]:
    """The agent's slots, where a launcher started this process. `leave` ends it, for the launcher to start what is
    due."""
    root, slot = os.environ.get("MSRT_SLOTS", ""), os.environ.get("MSRT_SLOT", "")
    if not root or not slot:
        return {}
    from msrt_device.updater.agent import SLOTS, AgentSlots  # noqa: PLC0415 - unpacks archives: only where there are slots

    return {Kind.AGENT: AgentSlots(Path(root), slot, leave)} if slot in SLOTS else {}


def agent_version() -> str:
    """That of the slot which this process was started from, else of the distribution."""
    slots = agent_slots(lambda: None).get(Kind.AGENT)
    return (slots.state().running.version if slots is not None else "") or version("msrt")


def system_slots(cmdline: Path = Path("/proc/cmdline"), esp: Path = ESP) -> Mapping[str, Slots]:
    """Those of this machine, if it was started from one of our images."""
    slot = _started(cmdline)
    if not slot or not (esp / "loader/entries").is_dir():
        return {}
    from msrt_device.updater.system import SystemSlots  # noqa: PLC0415 - as above

    return {Kind.SYSTEM: SystemSlots(slot, esp)}


def tryboot_slots(cmdline: Path = Path("/proc/cmdline"), boot: Path = BOOT) -> Mapping[str, Slots]:
    """Those of this Raspberry Pi, if it was started from one of our images."""
    slot = _started(cmdline)
    if not slot or not (boot / "autoboot.txt").is_file():
        return {}
    from msrt_device.updater.tryboot import TrybootSlots  # noqa: PLC0415 - as above

    return {Kind.SYSTEM: TrybootSlots(slot, boot)}


def _started(cmdline: Path) -> str:
    """The slot of an image that the kernel was started from."""
    with contextlib.suppress(OSError):
        found = re.search(r"\bmsrt\.slot=([ab])\b", cmdline.read_text())
        return found[1] if found is not None else ""
    return ""
