"""`python -m tests.bench [--keep] [PART ...]`: measure, print, and keep each part's table in RESULTS.md.

All parts are kept where none is named, named ones with `--keep`. Each runs in a process of its own. Exit status 1 when
a figure misses what it must reach, or a part fails.
"""

from __future__ import annotations

import datetime as dt
import importlib
import subprocess
import sys
import time

import msgspec

from tests.bench.headlines import RESULTS, renew, sections
from tests.bench.table import Row, cells, commit, machine, markdown, processor, row_of

PARTS = (
    "images", "cuts",
    "serving", "keywords", "pinned", "watching", "client", "latency", "failover",
    "updates", "balance", "scaling", "chaos", "overload", "memory", "start", "delta", "journal", "forks",
    "quantise", "mcu", "training", "rounds", "crowd", "draws", "aggregation", "hierarchy", "datacentre", "secure",
    "federated", "parameters", "flash", "trust", "faults", "mcmahan", "compression", "stragglers", "wisdm", "looplag",
)  # fmt: skip
LIMIT_S = 900
LIMITS_S = {"images": 3600, "cuts": 7200, "stragglers": 3600}
"""Of parts that take longer: two images are built and packed; each of twenty power cuts ends with a board that boots;
4.8 million steps of training."""


def _part(name: str) -> list[Row]:
    argv, limit = [sys.executable, "-m", "tests.bench", "--rows", name], LIMITS_S.get(name, LIMIT_S)
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return [Row(name, None, "", peer=f"failed: not done in {limit} s")]
    if done.returncode:
        return [Row(name, None, "", peer="failed: see standard error")]
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=list[Row])


def _show(rows: list[Row]) -> None:
    for row in rows:
        what, measured, must, peer = cells(row)
        sys.stdout.write(f"{what:76} {measured:>16}  {must:20} {peer}\n")
    sys.stdout.flush()


def keep(part: str, rows: list[Row], seconds: float) -> None:
    """The part's table, in the place of the one that it had."""
    head = f"# Measured\n{machine()} A part is measured by `python -m tests.bench --keep PART`, all by `make bench`.\n"
    kept = sections(RESULTS.read_text() if RESULTS.exists() else "")
    today = dt.datetime.now(dt.UTC).date()
    kept[part] = f"{today}, commit {commit()}, {processor()}, {seconds:.0f} s\n\n{markdown(rows)}"
    order = [name for name in PARTS if name in kept]
    RESULTS.write_text(head + "".join(f"\n## {name}\n{kept[name].rstrip()}\n" for name in order))
    renew()


def main(argv: list[str]) -> int:
    """Run the parts named, else all."""
    if argv[:1] == ["--rows"]:
        found = importlib.import_module(f"tests.bench.{argv[1]}").rows()
        sys.stdout.buffer.write(msgspec.json.encode([row_of(row) for row in found]) + b"\n")
        return 0
    named = [part for part in argv if part != "--keep"]
    rows: list[Row] = []
    for name in named or PARTS:
        began = time.monotonic()
        new = _part(name)
        _show(new)
        rows += new
        if not named or "--keep" in argv:
            keep(name, new, time.monotonic() - began)
    failed = any(row.value is None and row.peer.startswith("failed") for row in rows)
    return int(failed or not all(row.holds for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
