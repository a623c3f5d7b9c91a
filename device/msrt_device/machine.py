"""What this machine is, as the tree groups machines."""

from __future__ import annotations

import os
import platform

__all__ = ["device_class", "machine_memory"]


def machine_memory() -> int:
    """Bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def device_class() -> str:
    """Architecture, memory tier and engine of this machine."""
    memory = machine_memory() / (1 << 30)
    tier = next((f"{top}g" for top in (1, 2, 4, 8, 16) if memory <= top), "big")
    return f"{platform.machine()}-{tier}-onnxruntime"
