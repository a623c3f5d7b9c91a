"""`autoboot.txt`, by which a Raspberry Pi's boot loader chooses one of two boot partitions. Pure.

    [all]              in force: what starts from power-on, and after any reset
    tryboot_a_b=1
    boot_partition=2
    [tryboot]          what starts once, after `reboot "0 tryboot"`: the flag is gone when it was read
    boot_partition=3

From the Raspberry Pi documentation, "autoboot.txt" and "Fail-safe OS updates (tryboot)". It has 512 bytes at most.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BOOT_PARTITIONS", "LIMIT", "in_force", "render", "starts"]

BOOT_PARTITIONS: Final = {"a": 2, "b": 3}
"""Each slot's, by number in the partition table."""
LIMIT: Final = 512


def render(slot: str) -> str:
    """The file with this slot in force, the other one for a trial."""
    other = "b" if slot == "a" else "a"
    text = (
        f"[all]\ntryboot_a_b=1\nboot_partition={BOOT_PARTITIONS[slot]}\n"
        f"[tryboot]\nboot_partition={BOOT_PARTITIONS[other]}\n"
    )
    assert len(text) <= LIMIT, "the boot loader reads no more"
    return text


def starts(text: str, *, tryboot: bool) -> int:
    """Number of the partition that the boot loader takes: the last line that applies; 0 where none does."""
    section, found = "all", 0
    for line in (one.strip() for one in text[:LIMIT].splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].lower()
        elif line.startswith("boot_partition=") and (section == "all" or (tryboot and section == "tryboot")):
            value = line.partition("=")[2].strip()
            found = int(value) if value.isdecimal() else found
    return found


def in_force(text: str) -> str:
    """The slot that starts when no trial does; empty: the file names none of ours."""
    number = starts(text, tryboot=False)
    return next((slot for slot, one in BOOT_PARTITIONS.items() if one == number), "")
