"""One line of the table, and the table as it is printed and kept."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

VERSIONS = ("numpy", "onnxruntime", "pyzmq", "msgspec", "paho-mqtt", "uvicorn", "uvloop", "torch")


class Row(msgspec.Struct, frozen=True):
    """One figure. `bound` is >= or <= or empty where it is only shown; no value: it could not be measured, `peer` says
    why. `peer` is what stands beside it, measured in the same run."""

    what: str
    value: float | None
    unit: str
    bound: str = ""
    limit: float = 0.0
    peer: str = ""

    @property
    def holds(self) -> bool:
        """Whether it reaches what it must; what was not measured does not count against it, and is seen."""
        if self.value is None or not self.bound:
            return True
        return self.value >= self.limit if self.bound == ">=" else self.value <= self.limit


def number(value: float) -> str:
    """Three or four figures, thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def cells(row: Row) -> tuple[str, str, str, str]:
    """what, measured, must reach, beside it."""
    measured = "not measured" if row.value is None else f"{number(row.value)} {row.unit}".strip()
    must = f"{row.bound} {number(row.limit)} {'' if row.holds else '**missed**'}".strip() if row.bound else ""
    return row.what, measured, must, row.peer


def markdown(rows: Iterable[Row]) -> str:
    """The table of RESULTS.md."""
    lines = ["| what | measured | must reach | peer or limit, same run |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def processor() -> str:
    """Of this machine, as the kernel names it."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in info if line.startswith("model name")), platform.machine())


def machine() -> str:
    """Cores, memory, and the versions that matter: one paragraph."""
    total = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS)
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores of the processor that each part names, {total:.1f} GiB, Linux {platform.release()}; "
        f"Python {platform.python_version()}, {versions}."
    )


def commit() -> str:
    """Of what is measured."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def row_of(given: Row | Mapping[str, object] | msgspec.Struct) -> Row:
    """A row in whatever form a part gave it."""
    plain = given if isinstance(given, Mapping) else msgspec.structs.asdict(given)
    return msgspec.convert(plain, Row, strict=False)
