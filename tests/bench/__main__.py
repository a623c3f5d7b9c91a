"""`python -m tests.bench [PART ...]`: measure, print, and (all parts) keep the table in RESULTS.md.

Each part runs in a process of its own. Exit status 1 when a figure misses what it must reach, or a part fails.
"""

from __future__ import annotations

import datetime as dt
import importlib
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from tests.bench.table import Row, cells, machine, markdown, row_of

PARTS = (
    "serving", "keywords", "pinned", "watching", "client", "failover",
    "updates", "balance", "scaling", "chaos", "overload", "memory", "start", "journal", "forks",
    "quantise", "training", "aggregation", "hierarchy", "datacentre", "secure", "federated", "parameters", "faults",
    "mcmahan", "compression", "stragglers", "wisdm", "looplag",
)  # fmt: skip
RESULTS = Path(__file__).parent / "RESULTS.md"
LIMIT_S = 900


def _part(name: str) -> list[Row]:
    argv = [sys.executable, "-m", "tests.bench", "--rows", name]
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return [Row(name, None, "", peer=f"failed: not done in {LIMIT_S} s")]
    if done.returncode:
        return [Row(name, None, "", peer="failed: see standard error")]
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=list[Row])


def _show(rows: list[Row]) -> None:
    for row in rows:
        what, measured, must, peer = cells(row)
        sys.stdout.write(f"{what:76} {measured:>16}  {must:20} {peer}\n")
    sys.stdout.flush()


def main(argv: list[str]) -> int:
    """Run the parts named, else all."""
    if argv[:1] == ["--rows"]:
        found = importlib.import_module(f"tests.bench.{argv[1]}").rows()
        sys.stdout.buffer.write(msgspec.json.encode([row_of(row) for row in found]) + b"\n")
        return 0
    began = time.monotonic()
    rows: list[Row] = []
    for name in argv or PARTS:
        new = _part(name)
        _show(new)
        rows += new
    if not argv:
        minutes = (time.monotonic() - began) / 60
        today = dt.datetime.now(dt.UTC).date()
        how = f"{today}, `make bench`, {minutes:.0f} minutes. `python -m tests.bench PART` runs one part."
        head = f"# Measured\n{machine()} {how}\n\n"
        RESULTS.write_text(head + markdown(rows))
    failed = any(row.value is None and row.peer.startswith("failed") for row in rows)
    return int(failed or not all(row.holds for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
